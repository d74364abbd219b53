"""Errors, verdicts and residuals are the same in every inertial frame and in every unit."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.problems import Problem
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.conservation import report
from jaxstepper.physics.diagnostics import (
    SMALL_FRACTION,
    Energy,
    barycentric,
    internal_energy,
    reference_energy,
    relative_energy_error,
    total_energy,
)
from jaxstepper.physics.gravity import Gravity, tidal_field
from jaxstepper.physics.initial_conditions import kepler_pair
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.literature import FreeFall
from jaxstepper.stepping.rollout import run_steps
from jaxstepper.training.two_phase.calibrate import target_dt
from jaxstepper.training.two_phase.gate import Gate, try_step
from jaxstepper.training.two_phase.plan import Plan as TwoPhase
from jaxstepper.training.two_phase.samples import Sample

GRAVITY = Gravity()
PLAN = TwoPhase(StepNetwork((8,), "tanh", 0.0), FeatureSpec(), GRAVITY, optax.adam(1e-2))
# Total mass 1, a = 1, e = 0.5, from apocentre.
PAIR = np.array([[0.5, -0.75, 0, 0, -0.28867513], [0.5, 0.75, 0, 0, 0.28867513]])
# The same bodies with the speed of a parabola, whose energy is 0.
PARABOLA = PAIR * [1, 1, 1, 1, np.sqrt(4 / 3) / (2 * 0.28867513)]
THREE = np.array([[1.0, 0, 0, 0.02, 0.1], [0.2, 1, 0, 0, 1.1], [0.01, -3, 0, 0, -0.6]])
TABLES = {"pair": PAIR, "parabola": PARABOLA, "three bodies": THREE}


class Seen(NamedTuple):
    """A system as seen from elsewhere; boosts and offsets are in its own units."""

    boost: float = 0.0
    offset: float = 0.0
    turn: float = 0.0
    mass: float = 1.0
    length: float = 1.0

    def table(self, table):
        c, s = np.cos(self.turn), np.sin(self.turn)
        turn, one_way = np.array([[c, s], [-s, c]]), np.array([1.0, -0.5])
        x = self.length * (table[:, 1:3] @ turn + self.offset * one_way)
        v = self.length / self.time * (table[:, 3:5] @ turn + self.boost * one_way)
        return np.column_stack([self.mass * table[:, 0], x, v])

    @property
    def time(self):
        """The unit of time, with G = 1."""
        return np.sqrt(self.length**3 / self.mass)


FRAMES = {
    "boost": Seen(boost=1000.0),
    "offset": Seen(offset=1000.0),
    "turned": Seen(turn=0.7),
    "light": Seen(mass=1e-8),
    "long": Seen(length=1e12),
    "SI": Seen(mass=1.3e20, length=1.5e11),
    "all": Seen(100.0, -100.0, 2.0, 1e-8, 1e12),
}
both = pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def state_of(table, gravity=GRAVITY):
    return from_table(table, gravity.acceleration, jnp.float64)


def measured(table, unit):
    problem = Problem("mine", table[None], 3.0 * unit, "time", unit)
    return list(evaluate(FreeFall(0.01), "free-fall", False, [problem], [1.0, 4.0], 20_000))


@both
@tables
def test_the_table_of_evaluate_is_the_same(table, frame):
    for here, there in zip(
        measured(table, 1.0), measured(frame.table(table), frame.time), strict=True
    ):
        assert there.force_evaluations == here.force_evaluations
        assert there.failed == here.failed == ""
        for name in ("max_error", "median_error", "final_error"):
            np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-3)
        assert here.angular_momentum_error < 1e-9 and there.angular_momentum_error < 1e-9


@jax.jit
def trials(state, times):
    return jax.vmap(lambda dt: try_step(Gate(), GRAVITY, state, dt))(times)


@both
@tables
def test_the_verdict_of_the_gate_is_the_same(table, frame):
    times = 2.0 ** jnp.arange(-9, -1)
    here = trials(state_of(table), times)
    there = trials(state_of(frame.table(table)), times * frame.time)
    assert here.safe.any() and not here.safe.all()
    np.testing.assert_array_equal(there.safe, here.safe)
    np.testing.assert_allclose(there.error, here.error, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(there.slope * frame.time, here.slope, rtol=0.1, atol=1e-4)


@jax.jit
def calibrated(state):
    return target_dt(PLAN, Sample(state, jnp.zeros(()), jnp.zeros(0)))


@both
@tables
def test_the_calibrated_step_is_the_same_in_the_time_of_the_system(table, frame):
    here, there = calibrated(state_of(table)), calibrated(state_of(frame.table(table)))
    np.testing.assert_allclose(there / frame.time, here, rtol=1e-4)
    assert 1e-3 < here < 0.5


@both
@tables
def test_the_residuals_are_the_same(table, frame):
    first = state_of(table)
    last = run_steps(FreeFall(0.05), GRAVITY, first, 30).particles
    # Momenta that change: one of the bodies is kicked.
    last = last.replace(velocity=last.velocity.at[0, 1].add(1e-3))

    def seen(particles):
        now = np.column_stack([particles.mass, particles.position, particles.velocity])
        return state_of(frame.table(now))

    here = report(GRAVITY, first, last, 30)
    there = report(GRAVITY, seen(first), seen(last), 30)
    for name in ("energy_residual", "momentum_residual", "angular_momentum_residual"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-5, err_msg=name)
        assert 1e-6 < abs(here[name]) < 1


def test_the_residual_of_a_momentum_is_relative_to_the_speeds():
    first = state_of(PAIR)
    last = first.replace(velocity=first.velocity.at[0, 1].add(0.01))
    result = report(GRAVITY, first, last, 1)
    # 0.5 * 0.01 of 2 * 0.5 * 0.288..., and the same of the angular momenta, at right angles.
    np.testing.assert_allclose(result["momentum_residual"], 0.005 / 0.28867513, rtol=1e-12)
    expected = -0.005 / 0.28867513
    np.testing.assert_allclose(result["angular_momentum_residual"], expected, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_bodies_that_start_at_rest_have_residuals_that_rounding_does_not_blow_up(unit):
    table = THREE * [1, unit, unit, 0, 0]
    first = state_of(table)
    last = run_steps(FreeFall(0.01), GRAVITY, first, 100).particles
    result = report(GRAVITY, first, last, 100)
    assert result["momentum_residual"] < 1e-10
    assert abs(result["angular_momentum_residual"]) < 1e-10
    assert abs(result["energy_residual"]) < 1e-2


@pytest.mark.parametrize("eccentricity", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("phase", [0.0, 1.0, np.pi])
def test_the_scale_of_a_bound_orbit_is_its_energy(eccentricity, phase):
    table = kepler_pair(eccentricity, phase=phase)
    value, scale = reference_energy(state_of(table), GRAVITY)
    assert scale == -value
    np.testing.assert_allclose(value, total_energy(state_of(table), GRAVITY), rtol=1e-12)


def test_near_the_parabola_the_scale_is_continuous_and_does_not_vanish():
    rows = np.repeat(PARABOLA[None], 4001, axis=0)
    rows[:, :, 4] *= np.linspace(0.9, 1.1, 4001)[:, None]
    rows = jnp.asarray(rows)
    scales = jax.vmap(lambda t: reference_energy(state_of(t), GRAVITY))(rows).scale
    # Of two bodies of mass 1/2 at 1.5: U = -1/6, and T is as large for the parabola.
    assert scales.min() == pytest.approx(SMALL_FRACTION / 3, rel=0.02)
    assert np.abs(np.diff(scales)).max() < 2e-3 * scales.max()


def test_a_free_body_has_no_error_and_an_error_without_scale_is_none_too_small():
    one = state_of([[1.0, 2.0, 0.0, 3.0, 0.0]])
    reference = reference_energy(one, GRAVITY)
    assert reference.scale == 0
    assert relative_energy_error(internal_energy(one, GRAVITY), reference) == 0
    assert relative_energy_error(jnp.array(1e-9), Energy(jnp.array(0.0), jnp.array(0.0))) == jnp.inf


def test_the_energy_error_has_derivatives_forwards_and_backwards():
    state = state_of(Seen(boost=10.0).table(PAIR))

    def error(v):
        later = state.replace(velocity=v)
        return relative_energy_error(
            internal_energy(later, GRAVITY), reference_energy(state, GRAVITY)
        )

    moved = state.velocity + jnp.array([[0.1, 0.0], [0.0, 0.2]])
    backwards = jax.grad(error)(moved)
    np.testing.assert_allclose(jax.jacfwd(error)(moved), backwards, rtol=1e-12)
    for body, axis in ((0, 0), (1, 1)):
        step = jnp.zeros((2, 2)).at[body, axis].set(1e-6)
        slope = (error(moved + step) - error(moved - step)) / 2e-6
        np.testing.assert_allclose(backwards[body, axis], slope, rtol=1e-6)


def test_an_external_field_fixes_the_frame():
    field = replace(GRAVITY, external=tidal_field(10.0, (5.0, 0.0)))
    state = state_of(Seen(boost=3.0, offset=0.1).table(PAIR), field)
    assert barycentric(state, field) is state
    np.testing.assert_allclose(internal_energy(state, field), total_energy(state, field))


def test_in_float32_the_internal_energy_of_a_drifting_pair_is_kept():
    table = Seen(boost=1000.0, offset=1000.0).table(PAIR)
    state = from_table(table, GRAVITY.acceleration, jnp.float32)
    assert internal_energy(state, GRAVITY) == pytest.approx(-0.125, rel=1e-3)
