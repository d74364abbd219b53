"""The learned rule of pairs: its inputs on a circle, its steps, and what they do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network.swinging_field import FIELD, MASSES, assert_it_follows_the_field

from jaxstepper.errors import UserError
from jaxstepper.network.learned_criterion import Weights
from jaxstepper.network.learned_pairs import FIRST, SHARPNESS, PairRule
from jaxstepper.network.pair_inputs import PAIR_INPUTS, pair_inputs
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, virial_system
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.pairs import Pairs
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.literature import huayno
from jaxstepper.stepping.rollout import Limits, advance, run_until, start
from jaxstepper.stepping.rule import symmetrized
from jaxstepper.stepping.scheme import Chin, Hermite

ETA, STEP = 0.1, 0.05
SEEN = np.array([-0.2, 0.1, -0.2, -0.1, -0.1, -0.2, -0.1, -0.2, 0.15, 0.1, -0.05])
THREE = virial_system(3, [1.0, 2.0, 0.5])


def rule(weights=SEEN, eta=ETA, **more):
    weights = {"params": {"weights": jnp.asarray(weights)}, "constants": {}}
    return PairRule(Weights(), weights, eta, **more)


def bodies(table, time=0.0):
    return from_table(table, Gravity().acceleration, float, time)


@jax.jit
def begin(chosen, particles):
    return start(chosen, Gravity(), particles)


@jax.jit
def go_on(chosen, rollout):
    return advance(chosen, Gravity(), rollout)


def test_the_inputs_of_a_circle():
    """r = 1, mu = M = 1, so that w = T = 1; the force grows as exp(w t) in a second case."""
    one = jnp.ones(1)
    pairs = Pairs(one, one, one / 4, 0 * one, one, one)
    turning = ([-one, 0 * one], [0 * one, -one], [one, 0 * one], [0 * one, one])
    growing = [[one, 0 * one]] * 4
    orbit = [np.log(2 + 0.02), 0, 0, np.tanh(np.log(0.5)), 0]
    for motion, growth in ((turning, 0.0), (growing, STEP)):
        changes = [[x * STEP**k for x in z] for k, z in enumerate(motion)]
        seen = pair_inputs(pairs, changes, jnp.asarray(STEP), jnp.asarray(1.0))
        np.testing.assert_allclose(seen[0], [*orbit, 0, 0, 0, *[growth] * 3], atol=2e-6)


def test_with_weights_of_0_it_is_huaynos_rule():
    """Exactly for a pair; for more, the smooth minimum over pairs is a little shorter."""
    unlearned, classical = rule(np.zeros(PAIR_INPUTS)), huayno(ETA).on(Hermite())
    for table in (kepler_pair(0.5), THREE):
        first = begin(unlearned, bodies(table))
        after = go_on(unlearned, first)
        dt, _ = classical.step_size((), first.particles)
        shortest = len(THREE) ** (-1 / SHARPNESS) if len(table) > 2 else 1.0
        assert shortest * (1 - 1e-12) <= after.particles.dt / (FIRST * dt) <= 1 + 1e-12
        dt, _ = classical.step_size((), after.particles)
        ratio = go_on(unlearned, after).particles.dt / dt
        assert shortest * (1 - 1e-12) <= ratio <= 1 + 1e-12


def test_an_input_of_its_own_makes_the_step_it_says():
    """The share of the only pair in the energy, and a weight of 1, on top of HUAYNO's step."""
    unit = np.eye(PAIR_INPUTS)
    start_of = begin(rule(unit[0]), bodies(kepler_pair(0.5)))
    after = go_on(rule(unit[0]), start_of)
    p = after.particles
    r = float(jnp.linalg.norm(p.position[0] - p.position[1]))
    energy = float(jnp.sum(p.mass * jnp.sum(p.velocity**2, axis=1)) / 2 - jnp.prod(p.mass) / r)
    dt, _ = huayno(ETA).step_size((), p)
    share = float(jnp.prod(p.mass)) / (r * abs(energy))
    wanted = float(dt) * (share + 0.02)
    assert go_on(rule(unit[0]), after).particles.dt == pytest.approx(wanted, rel=1e-9)


def test_it_knows_the_derivatives_of_the_force():
    rollout = begin(rule(eta=0.02), bodies(THREE))
    for _ in range(20):
        rollout = go_on(rule(eta=0.02), rollout)
    known = rule().told(rollout.memory, rollout.carried, 1.0)
    p = rollout.particles
    _, jerk = acceleration_and_jerk(Gravity(), p.position, p.velocity, p.mass, p.time)
    np.testing.assert_allclose(known.jerk_now, jerk, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(known.jerk_now, rollout.carried)
    change = (p.acceleration - known.acceleration) / p.dt
    mean = (known.jerk + known.jerk_now) / 2
    np.testing.assert_allclose(change, mean, rtol=1e-2, atol=1e-2)


SPAN = 3.0


@jax.jit
def rolled(chosen, particles, end):
    return run_until(chosen, Gravity(), particles, Limits(end))


def test_steps_are_the_same_in_every_frame_and_unit_and_direction():
    end = rolled(rule(), bodies(THREE), SPAN)
    steps, position = int(end.steps), np.asarray(end.particles.position)
    assert steps > 50
    mass, x, v = THREE[:, :1], THREE[:, 1:4], THREE[:, 4:]
    drift = np.array([3.0, -2.0, 1.0])
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    cases = (
        (np.hstack([mass, x, v + drift]), SPAN, lambda y: y - drift * SPAN),
        (np.hstack([mass, x @ turn, v @ turn]), SPAN, lambda y: y @ turn.T),
        (np.hstack([4 * mass, 16 * x, v / 2]), 32 * SPAN, lambda y: y / 16),
        (np.hstack([mass, x, -v]), -SPAN, lambda y: y),
    )
    for table, span, back in cases:
        moved = rolled(rule(), bodies(table), span)
        assert int(moved.steps) == steps
        np.testing.assert_allclose(back(np.asarray(moved.particles.position)), position, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bodies_at_rest_and_massless_ones_have_steps(dtype):
    table = np.array([[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]] * 1)
    table = np.vstack([table, [0, 0, 0, 2, 0, 0, 0]])
    particles = from_table(table, Gravity().acceleration, dtype)
    rollout = begin(rule(SEEN.astype(dtype)), particles)
    for _ in range(5):
        rollout = go_on(rule(SEEN.astype(dtype)), rollout)
        assert 0 < rollout.particles.dt < 1


@pytest.mark.parametrize("masses", MASSES)
def test_bodies_without_a_pull_on_each_other_have_steps_in_a_field(masses):
    assert_it_follows_the_field(rule(external=FIELD), masses)


def test_it_is_on_hermite_alone():
    with pytest.raises(UserError, match="hermite"):
        rule().on(Chin())
    with pytest.raises(UserError, match="sees the step before"):
        symmetrized(rule())
    assert rule().on(Hermite()).scaled(2.0).eta == 2 * ETA
