"""Schemes: their orders, their ways back, what they cost, and what does not fit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stepping.round_trip import there_and_back

from jaxstepper.errors import UserError
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.initial_conditions import figure_eight, kepler_pair
from jaxstepper.physics.particles import from_table
from jaxstepper.settings.config import SCHEMES
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.rollout import (
    Limits,
    force_evaluations,
    run_steps,
    run_until,
)
from jaxstepper.stepping.rule import Fixed, symmetrized
from jaxstepper.stepping.scheme import BY_NAME, Scheme, name_of

GRAVITY = Gravity()
SOFTENED = Gravity(0.3)
SPLITTINGS = ("leapfrog", "chin", "bm4")
ALL = (*SPLITTINGS, "hermite")


def swing(position, time):
    """The potential of a spring in 2D, anisotropic, whose strength swings."""
    return 0.5 * (1 + 0.5 * jnp.sin(2 * time)) * (position[:, 0] ** 2 + 2 * position[:, 1] ** 2)


IN_A_FIELD = Gravity(0.1, ExternalField.from_potential(swing))
PAIR = kepler_pair(0.3, phase=1.0)


@partial(jax.jit, static_argnums=(1, 2))
def state_of(table, gravity=GRAVITY, dtype=jnp.float64):
    return from_table(table, gravity.acceleration, dtype)


@partial(jax.jit, static_argnames=("scheme", "gravity"))
def at_time_one(scheme, gravity, table, steps):
    rule = Fixed(1 / steps).on(scheme)
    return run_until(rule, gravity, state_of(table, gravity), Limits(steps=steps)).particles


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("gravity", "table"),
    [(GRAVITY, PAIR), (SOFTENED, figure_eight()), (IN_A_FIELD, figure_eight())],
    ids=["pair", "softened", "field"],
)
def test_the_error_goes_as_the_order(name, gravity, table):
    steps = np.array([64, 128, 256])
    exact = at_time_one(BY_NAME["bm4"], gravity, table, 2048).position
    errors = [
        np.max(np.abs(at_time_one(BY_NAME[name], gravity, table, n).position - exact))
        for n in steps.tolist()
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(BY_NAME[name].order, abs=0.2)


@pytest.mark.parametrize("name", ALL)
def test_a_pair_comes_where_kepler_says(name):
    table = kepler_pair(0.5, total_mass=1.0)
    end = run_steps(Fixed(0.01).on(BY_NAME[name]), GRAVITY, state_of(table), 300)
    eccentric = 3.0
    for _ in range(60):
        eccentric = 3.0 + 0.5 * np.sin(eccentric)
    where = [np.cos(eccentric) - 0.5, np.sqrt(0.75) * np.sin(eccentric)]
    apart = np.asarray(end.particles.position[1] - end.particles.position[0])
    sign = np.sign(table[1, 1] - table[0, 1])
    tolerance = 2e-3 if name == "leapfrog" else 2e-6
    np.testing.assert_allclose(sign * apart, where, atol=tolerance)


@pytest.mark.parametrize("name", SPLITTINGS)
@pytest.mark.parametrize(
    "rule",
    [Fixed(0.02), symmetrized(rules.free_fall(0.2)), rules.hairer_soderlind(0.1)],
    ids=["fixed", "symmetrised", "hairer-soderlind"],
)
def test_a_reversible_rule_on_a_symmetric_scheme_returns(name, rule):
    begin = state_of(kepler_pair(0.8, phase=3.0))
    there, back = there_and_back(rule.on(BY_NAME[name]), begin, 200)
    assert jnp.max(jnp.abs(there.position - begin.position)) > 0.1
    np.testing.assert_allclose(back.position, begin.position, atol=1e-9)
    np.testing.assert_allclose(back.velocity, -begin.velocity, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_backwards_in_time_undoes_forwards(name):
    rule = Fixed(0.005).on(BY_NAME[name])
    there = run_until(rule, IN_A_FIELD, state_of(PAIR, IN_A_FIELD), Limits(time=1.0)).particles
    back = run_until(rule, IN_A_FIELD, there.replace(dt=0 * there.dt), Limits(time=0.0)).particles
    np.testing.assert_allclose(back.position, PAIR[:, 1:3], atol=1e-8)


@pytest.mark.parametrize("name", [*ALL, "logarithmic"])
def test_evaluations_are_what_the_scheme_says(name):
    calls = []

    @jax.tree_util.register_static
    class Counting(Gravity):
        def acceleration(self, position, mass, time):
            jax.debug.callback(lambda: calls.append(1))
            return super().acceleration(position, mass, time)

    field = ExternalField(
        lambda x, time: counted(calls, jnp.zeros_like(x)), lambda x, time: jnp.zeros(x.shape[0])
    )
    gravity = Gravity(0.0, field) if name == "hermite" else Counting()
    rule = rules.logarithmic_hamiltonian(0.1, gravity) if name == "logarithmic" else Fixed(0.01)
    begin = from_table(PAIR, gravity.acceleration, jnp.float64)
    jax.effects_barrier()
    calls.clear()
    run_steps(rule.on(BY_NAME[name]), gravity, begin, 5)
    jax.effects_barrier()
    # A field is evaluated once more at the start; without one, the first state was made before.
    assert 1 - (name == "hermite") + len(calls) == force_evaluations(rule.on(BY_NAME[name]), 5)


def counted(calls, value):
    jax.debug.callback(lambda: calls.append(1))
    return value


@pytest.mark.parametrize("name", ALL)
def test_many_systems_in_float32_are_each_alone(name):
    rule = Fixed(0.01).on(BY_NAME[name])
    tables = jnp.asarray([kepler_pair(0.1), kepler_pair(0.5)])
    starts = jax.vmap(lambda table: state_of(table, GRAVITY, jnp.float32))(tables)
    together = jax.vmap(lambda each: run_steps(rule, GRAVITY, each, 20))(starts).particles
    assert together.position.dtype == together.time.dtype == jnp.float32
    alone = run_steps(rule, GRAVITY, jax.tree.map(lambda x: x[1], starts), 20).particles
    np.testing.assert_allclose(together.position[1], alone.position, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_gradients_pass_through_the_steps(name):
    begin = state_of(PAIR)

    @jax.jit
    @jax.value_and_grad
    def energy(eta):
        rule = rules.free_fall(eta).on(BY_NAME[name])
        return total_energy(run_steps(rule, GRAVITY, begin, 5).particles, GRAVITY)

    small = 1e-4
    slope = (energy(0.2 + small)[0] - energy(0.2 - small)[0]) / (2 * small)
    np.testing.assert_allclose(energy(0.2)[1], slope, rtol=1e-4)


def test_wrappers_are_on_the_scheme_of_what_they_wrap():
    chin = BY_NAME["chin"]
    rule = rules.free_fall(0.1)
    forms = [symmetrized(rule).on(chin), symmetrized(rule.on(chin)), rule.scaled(2.0).on(chin)]
    assert [form.scheme for form in forms] == [chin] * 3
    assert forms[0] == forms[1]
    assert rule.on(BY_NAME["bm4"]).on(chin) == rule.on(chin)
    assert name_of(rule.scheme) == "leapfrog"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: symmetrized(rules.free_fall(0.1)).on(BY_NAME["hermite"]), "not symmetric"),
        (lambda: symmetrized(rules.free_fall(0.1).on(BY_NAME["hermite"])), "not symmetric"),
        (lambda: rules.free_fall(0.1).on(BY_NAME["logarithmic"]), "transformed time"),
        (lambda: rules.logarithmic_hamiltonian(0.1, GRAVITY).on(BY_NAME["chin"]), "transformed"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(make, reason):
    with pytest.raises(UserError, match=reason):
        make()


def test_a_scheme_of_ones_own_is_a_class_with_a_step():
    class Drift(Scheme):
        times: float
        evaluations = 0

        def step(self, carried, particles, dt, gravity):
            position = particles.position + self.times * dt * particles.velocity
            return particles.replace(position=position, time=particles.time + dt, dt=dt), carried

    rule = Fixed(0.1).on(Drift(2.0))
    end = run_steps(rule, GRAVITY, state_of(PAIR), 5).particles
    np.testing.assert_allclose(end.position, PAIR[:, 1:3] + PAIR[:, 3:], rtol=1e-12)
    assert force_evaluations(rule, 5) == 1
    assert Drift(2.0) == Drift(2.0) != Drift(1.0)


def test_the_command_line_names_every_scheme():
    assert tuple(BY_NAME) == SCHEMES
