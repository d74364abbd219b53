"""How fast bodies fall together, found out in the pass for their accelerations."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.network.learned import OrbitalRule
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.gravity import BLOCK, BLOCKS, BY_SOURCES_UP_TO, Gravity
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.physics.pairs import ALL_PAIRS_UP_TO
from jaxstepper.physics.particles import from_table
from jaxstepper.physics.reductions import LARGEST_SQUARE, SUM_OF_FOURTH_POWERS
from jaxstepper.stepping import literature
from jaxstepper.stepping.rollout import Limits, run_steps, run_until
from jaxstepper.stepping.rule import symmetrized
from jaxstepper.stepping.scheme import BY_NAME, Fallen
from jaxstepper.stepping.status import STALLED

SOFTENING = 0.05
GRAVITY = Gravity(SOFTENING)


def bodies(count, dtype=np.float64):
    """Two of them at the same place, and two massless ones."""
    rng = np.random.default_rng(count)
    position, mass = rng.normal(size=(count, 3)), rng.uniform(0.5, 2, count)
    position[1], mass[2:4] = position[0], 0
    return jnp.asarray(position, dtype), jnp.asarray(mass, dtype)


def squares(position, mass, softening):
    """mu / d^3 of every pair, 0 where there is none."""
    x, m = np.asarray(position, np.float64), np.asarray(mass, np.float64)
    d_squared = ((x[None] - x[:, None]) ** 2).sum(2) + softening**2
    np.fill_diagonal(d_squared, np.inf)
    return (m[None] + m[:, None]) / d_squared**1.5


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [17, BY_SOURCES_UP_TO + 1, 2 * BLOCKS * BLOCK])
def test_a_pass_for_forces_finds_the_rates_of_every_body(count, dtype):
    position, mass = bodies(count, dtype)
    gravity = Gravity(SOFTENING, G=2.0)
    every = squares(position, 2 * mass, SOFTENING)
    rtol = 1e-12 if dtype == np.float64 else 1e-4
    for falls, exact in (
        (LARGEST_SQUARE, every.max(1)),
        (SUM_OF_FOURTH_POWERS, (every**2).sum(1)),
    ):
        found = jax.jit(partial(gravity.acceleration_and_falls, falls=falls))
        acceleration, of_bodies = found(position, mass, jnp.zeros((), dtype))
        np.testing.assert_allclose(of_bodies, exact, rtol=rtol)
        alone = gravity.acceleration(position, mass, jnp.zeros((), dtype))
        size = np.max(np.abs(alone))
        np.testing.assert_allclose(acceleration, alone, rtol=0, atol=1e-2 * rtol * size)


def test_rates_have_the_slopes_that_they_have_where_accelerations_do():
    position, mass = bodies(20)
    change = 1e-6 * np.random.default_rng(0).normal(size=position.shape)

    @jax.jit
    def total(position):
        time = jnp.zeros(())
        both = GRAVITY.acceleration_and_falls(position, mass, time, SUM_OF_FOURTH_POWERS)
        return sum(jnp.sum(jnp.cos(x)) for x in both)

    measured = (total(position + change) - total(position - change)) / 2
    np.testing.assert_allclose(jnp.sum(jax.grad(total)(position) * change), measured, rtol=1e-4)


class Untold(literature.FreeFall):
    """Free fall that looks at all pairs itself."""

    falls = None


def learned(fastest):
    network = StepNetwork((4,), dropout=0.0, positive=False)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 7)))
    return OrbitalRule(network, variables, 1e-3, SOFTENING, sees_others=True, fastest=fastest)


class UntoldOrbitalRule(OrbitalRule):
    """A learned rule that looks at all pairs itself."""

    falls = None


def untold(rule):
    if isinstance(rule, literature.FreeFall):
        return Untold(rule.eta, rule.softening)
    names = ("network", "variables", "tolerance", "softening", "sees_others", "fastest")
    return UntoldOrbitalRule(**{name: getattr(rule, name) for name in names})


@pytest.mark.parametrize(
    ("rule", "scheme"),
    [
        (literature.FreeFall(0.03, SOFTENING), "leapfrog"),
        (learned(fastest=5), "leapfrog"),
        (literature.FreeFall(0.03, SOFTENING), "chin"),
    ],
)
def test_a_rule_takes_the_steps_that_it_takes_where_it_looks_itself(rule, scheme):
    start = from_table(plummer(3, 20), GRAVITY.acceleration)
    assert len(start.mass) > ALL_PAIRS_UP_TO
    told, alone = (
        run_steps(symmetrized(each.on(BY_NAME[scheme])), GRAVITY, start, 20)
        for each in (rule, untold(rule))
    )
    assert isinstance(told.carried, Fallen) and alone.carried == ()
    np.testing.assert_allclose(told.particles.time, alone.particles.time, rtol=1e-11)
    np.testing.assert_allclose(told.particles.position, alone.particles.position, rtol=1e-9)


def test_a_rule_with_another_softening_than_the_force_keeps_to_its_own():
    start = from_table(plummer(3, 20), GRAVITY.acceleration)
    for rule in (literature.FreeFall(0.03, 0.0), literature.FreeFall(0.03, SOFTENING)):
        told = run_until(rule, GRAVITY, start, Limits(time=0.05))
        alone = run_until(untold(rule), GRAVITY, start, Limits(time=0.05))
        assert told.steps == alone.steps
        np.testing.assert_allclose(told.particles.position, alone.particles.position, rtol=1e-9)


def test_the_scheme_of_a_rule_is_what_it_is_whatever_the_rule_asks_for():
    rule = literature.FreeFall(0.03, SOFTENING)
    assert rule.scheme == BY_NAME["leapfrog"]
    hermite = run_steps(
        rule.on(BY_NAME["hermite"]), GRAVITY, from_table(plummer(3, 20), GRAVITY.acceleration), 2
    )
    assert not isinstance(hermite.carried, Fallen)
    assert replace(rule, eta=1.0).falls is LARGEST_SQUARE


@pytest.mark.parametrize("bodies", [2, 20])
@pytest.mark.parametrize("rule", [literature.FreeFall(0.03), learned(5), learned(0)])
def test_bodies_in_the_same_place_are_not_stepped_over(rule, bodies):
    table = plummer(3, bodies)
    table[1, 1:] = table[0, 1:]
    gravity, rule = Gravity(), replace(rule, softening=0.0)
    end = run_until(rule, gravity, from_table(table, gravity.acceleration), Limits(time=0.05))
    assert end.status == STALLED and end.particles.time == 0
