"""The learned criterion: its inputs on motions with closed forms, and what its steps do not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.network.derivative_inputs import DERIVATIVE_INPUTS, derivative_inputs
from jaxstepper.network.learned_criterion import LearnedCriterion, Weights
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.criteria import Aarseth, Derivatives
from jaxstepper.stepping.individual import run_individual
from jaxstepper.stepping.individual_state import evaluations
from jaxstepper.stepping.status import ENDED

STEP_SIZE = jax.jit(lambda criterion, known: criterion.step_size(known))
SEEN = np.array([0.1, -0.2, -0.2, -0.5, -0.15, -0.25, -0.15])
ETA, RATE, STEP = 0.02, 3.0, 0.1


def criterion(weights, eta=ETA):
    variables = {"params": {"weights": jnp.asarray(weights)}, "constants": {}}
    return LearnedCriterion(Weights(), variables, eta)


def on_a_circle(speed=1.0):
    """x = (cos wt, sin wt) at t = 0, w = `RATE`; its own speed is `speed` times the mean."""
    x, v = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, RATE]])
    a, j, s, c = -(RATE**2) * x, -(RATE**2) * v, RATE**4 * x, RATE**4 * v
    return Derivatives(a, j, s, c, jnp.ones(1), jnp.full(1, STEP), v, jnp.asarray(RATE / speed))


def growing():
    """a = exp(kt) e, k = `RATE`, moving across it at the mean speed."""
    a = jnp.array([[1.0, 0.0]])
    motion = [RATE**k * a for k in range(4)]
    across = jnp.array([[0.0, 2.0]])
    return Derivatives(*motion, jnp.ones(1), jnp.full(1, STEP), across, jnp.asarray(2.0))


def test_the_inputs_of_a_circle_and_of_a_force_that_grows():
    time = jnp.full(1, 1 / RATE)  # Aarseth's for eta = 1, in both
    fast = np.log(2.0**2 + 0.02) / 2
    # |a| T / V is that of its own speed to the mean.
    circle = [0, 0, fast, np.tanh(np.log(2) + 1.5), 0, 0, 1]
    inputs = jax.jit(derivative_inputs)
    np.testing.assert_allclose(inputs(on_a_circle(speed=2.0), time)[0], circle, atol=1e-12)
    grows = [0, 0, np.log(1.02) / 2, np.tanh(np.log(1 / RATE / 2) + 1.5), *[STEP * RATE] * 2, 0]
    np.testing.assert_allclose(inputs(growing(), time)[0], grows, atol=1e-12)


def test_its_step_is_that_of_the_weights():
    """1 for the time of snap or crackle leaves that time alone; 0 everywhere is Aarseth's."""
    rng = np.random.default_rng(0)
    a, j, s, c, v = jnp.asarray(
        rng.normal(size=(5, 4, 3)) * RATE ** np.array([0, 1, 2, 3, 0])[:, None, None]
    )
    known = Derivatives(a, j, s, c, jnp.ones(4), jnp.full(4, STEP), v, jnp.asarray(1.5))
    aarseth = Aarseth(ETA).step_size(known)
    unit = np.eye(DERIVATIVE_INPUTS)
    norm = [np.linalg.norm(z, axis=1) for z in (a, j, s, c, v)]
    closed_forms = (
        (0 * unit[0], aarseth),
        (unit[0], np.sqrt(ETA * norm[0] / norm[2])),
        (unit[1], np.sqrt(ETA) * (norm[0] / norm[3]) ** (1 / 3)),
        (-unit[2] / 4, aarseth * ((norm[4] / 1.5) ** 2 + 0.02) ** -0.125),
    )
    for weights, wanted in closed_forms:
        np.testing.assert_allclose(STEP_SIZE(criterion(weights), known), wanted, rtol=1e-12)
    far = STEP_SIZE(criterion(100 * SEEN), known)
    np.testing.assert_allclose(np.abs(np.log(far / aarseth)), 2, rtol=1e-12)
    first = (a, j, s)
    np.testing.assert_array_equal(
        criterion(SEEN).first_step(*first), Aarseth(ETA).first_step(*first)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_nothing_is_known_it_is_a_number(dtype):
    zero, one = jnp.zeros((1, 3), dtype), jnp.ones(1, dtype)
    force = jnp.array([[1.0, 0, 0]], dtype)
    learned = criterion(SEEN.astype(dtype))
    for motion in ([zero] * 4, [force, zero, zero, zero]):
        known = Derivatives(*motion, one, one, zero, jnp.zeros((), dtype))
        assert STEP_SIZE(learned, known)[0] == np.inf
    short = one * dtype(1e-12)
    for motion in ([force, zero, 1e10 * force, zero], [force, 1e12 * force, zero, zero]):
        known = Derivatives(*motion, one, short, zero, jnp.ones((), dtype))
        assert STEP_SIZE(learned, known)[0] > 0


# --- rollouts ------------------------------------------------------------------------------------

SPAN, LONGEST = 0.7, 0.3
EIGHT = plummer(3, 8)


def rolled(table=EIGHT, end=SPAN, time=0.0, scale=1.0):
    bodies = from_table(table, Gravity().acceleration, float).replace(time=jnp.asarray(time))
    end = run_individual(criterion(SEEN), Gravity(), bodies, end, LONGEST * scale)
    assert int(end.status) == ENDED
    return end, np.asarray(end.motion[0].T)


def test_steps_are_the_same_in_every_frame_and_unit_and_direction():
    end, position = rolled()
    count = evaluations(end)
    mass, x, v = EIGHT[:, :1], EIGHT[:, 1:4], EIGHT[:, 4:]

    drift = np.array([3.0, -2.0, 1.0])
    moved, there = rolled(np.hstack([mass, x, v + drift]))
    assert evaluations(moved) == count
    np.testing.assert_allclose(there - drift * SPAN, position, atol=1e-9)

    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    moved, there = rolled(np.hstack([mass, x @ turn, v @ turn]))
    assert evaluations(moved) == count
    np.testing.assert_allclose(there, position @ turn, atol=1e-9)

    moved, there = rolled(np.hstack([4 * mass, 16 * x, v / 2]), SPAN * 32, scale=32)
    assert evaluations(moved) == count
    np.testing.assert_allclose(there / 16, position, atol=1e-9)

    moved, there = rolled(np.hstack([mass, x, -v]), -SPAN)
    assert evaluations(moved) == count
    np.testing.assert_allclose(there, position, atol=1e-9)
