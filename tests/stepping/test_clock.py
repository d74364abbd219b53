"""The time of a rollout: exact after any number of steps, forwards and backwards, or failed."""

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.evaluation import measure
from jaxstepper.evaluation.problems import problem
from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.initial_conditions import kepler_pair
from jaxstepper.physics.particles import from_table
from jaxstepper.runs.models import load_rule
from jaxstepper.stepping.clock import started, tick
from jaxstepper.stepping.literature import by_name
from jaxstepper.stepping.many_rollouts import roll_out
from jaxstepper.stepping.recording import record
from jaxstepper.stepping.rollout import (
    MOST_STEPS,
    Limits,
    advance,
    reverse,
    run_steps,
    run_until,
    start,
    with_status,
)
from jaxstepper.stepping.rule import fixed, memoryless, symmetrized
from jaxstepper.stepping.status import ENDED, NOT_FINITE, RUNNING, STALLED, word

GRAVITY = Gravity()
CIRCLE = [[0.5, -0.5, 0, 0, -0.5], [0.5, 0.5, 0, 0, 0.5]]
FALL = [[1, -0.5, 0, 0, 0], [1, 0.5, 0, 0, 0]]
SAME_PLACE = [[1, 0.3, 0, 0, 0], [1, 0.3, 0, 0, 0]]


def test_steps_that_cannot_be_counted_have_stalled():
    begin = start(fixed(1e-12), GRAVITY, state_of(CIRCLE), 1.0)
    end = begin._replace(steps=jnp.int32(MOST_STEPS))
    assert int(with_status(end, Limits(time=1.0)).status) == STALLED
    assert int(with_status(end, Limits(time=0.0)).status) == ENDED
    assert int(with_status(begin, Limits(time=jnp.nan)).status) == NOT_FINITE
    asked = Limits(time=1.0, steps=7)
    assert int(with_status(begin._replace(steps=jnp.int32(7)), asked).status) == ENDED


def state_of(table, dtype=jnp.float64, time=0.0, gravity=GRAVITY):
    return state_of_array(np.array(table, float), dtype, float(time), gravity)


@partial(jax.jit, static_argnums=(1, 3))
def state_of_array(table, dtype, time, gravity):
    return from_table(table, gravity.acceleration, dtype, time)


def to_the_end(rule, gravity, particles, limits):
    """The rollout of every way to run one to its limits, which agree."""
    until = run_until(rule, gravity, particles, limits)
    recorded, path = record(rule, gravity, particles, limits)
    ((rolled, _),) = roll_out(None, rule, gravity, [particles], [limits])
    for other in (recorded, rolled):
        assert int(other.steps) == int(until.steps)
        assert int(other.status) == int(until.status)
        np.testing.assert_array_equal(other.particles.time, until.particles.time)
    assert len(path.dt) == until.steps
    return until


# --- counting -------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=2)
def clock_alone(particles, dt, steps):
    def body(_, carry):
        clock, p = carry
        return tick(clock, p, p.replace(time=p.time + dt, dt=dt))

    return jax.lax.fori_loop(0, steps, body, (started(particles.time), particles))


@pytest.mark.parametrize(
    ("dtype", "dt", "steps"),
    [
        (jnp.float32, 1e-4, 10**8),
        (jnp.float32, 2 * math.pi / 1000, 10**7),
        (jnp.float64, 1 / 3, 10**7),
    ],
)
def test_millions_of_steps_are_counted_exactly(dtype, dt, steps):
    dt = jnp.asarray(dt, dtype)
    clock, end = clock_alone(state_of(CIRCLE, dtype), dt, steps)
    exact = steps * Fraction(float(dt))
    counted = sum(Fraction(float(part)) for part in (end.time, clock.lost, clock.rest))
    assert abs(counted - exact) < Fraction(float(dt)) / 1000
    assert abs(Fraction(float(end.time)) - exact) <= Fraction(float(np.spacing(end.time)))


def test_a_thousand_orbits_in_float32_take_a_million_steps():
    rule, limits = fixed(2 * math.pi / 1000), Limits(time=2000 * math.pi)
    end = run_until(rule, GRAVITY, state_of(CIRCLE, jnp.float32), limits)
    assert end.steps == 1_000_000
    assert end.status == ENDED


def test_steps_below_the_resolution_of_float32_count():
    # float32 resolves 2.4e-4 here.
    begin = state_of(CIRCLE, jnp.float32, time=2099.0)
    end = to_the_end(fixed(1e-4), GRAVITY, begin, Limits(time=2100.0))
    assert end.steps == 10_000
    assert end.particles.time == 2100


def test_advance_without_limits_counts_too():
    begin = start(fixed(1e-4), GRAVITY, state_of(CIRCLE, jnp.float32, time=2099.0))
    step = lambda _, rollout: advance(fixed(1e-4), GRAVITY, rollout)  # noqa: E731
    end = jax.lax.fori_loop(0, 10_000, step, begin)
    np.testing.assert_allclose(end.particles.time, 2100, atol=3e-4)
    assert end.status == RUNNING


# --- start and direction --------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin, end, dt",
    [
        (-30, -10, 0.1),
        (0, -1, 0.01),
        (0, -1, 1 / 3),
        (-10, 0, 1 / 3),
        (5, -5, 0.1),
        (-1, 1, 0.01),
        (0, 10, 0.1),
    ],
)
def test_time_runs_from_any_start_to_any_end(begin, end, dt):
    limits = Limits(time=float(end))
    rollout = to_the_end(fixed(dt), GRAVITY, state_of(CIRCLE, time=begin), limits)
    assert rollout.steps == round(abs(end - begin) / dt)
    assert rollout.status == ENDED
    np.testing.assert_allclose(rollout.particles.time, end, atol=1e-13)


@pytest.mark.parametrize("name", ["free-fall", "huayno", "hairer-soderlind"])
def test_backwards_is_forwards_with_the_velocities_reversed(name):
    rule, table = by_name(name, GRAVITY, 0.05), kepler_pair(0.6, phase=2.0)
    forwards = np.array(table)
    forwards[:, 3:] *= -1
    back = run_until(rule, GRAVITY, state_of(table), Limits(time=-1.0))
    there = run_until(rule, GRAVITY, state_of(forwards), Limits(time=1.0))
    assert back.steps == there.steps > 20
    assert back.particles.time == -1
    np.testing.assert_allclose(back.particles.position, there.particles.position, rtol=1e-13)
    np.testing.assert_allclose(back.particles.velocity, -there.particles.velocity, rtol=1e-12)


def test_a_symmetrised_rule_returns_to_its_start():
    rule = symmetrized(by_name("free-fall", GRAVITY, 0.05))
    begin = state_of(kepler_pair(0.9, phase=math.pi))
    steps = 300
    turned = reverse(rule, run_until(rule, GRAVITY, begin, Limits(steps=steps)))
    # Time runs backwards from here, so that the velocities are as they were.
    turned = turned._replace(
        particles=turned.particles.replace(velocity=-turned.particles.velocity),
        clock=started(turned.particles.time),
    )
    back = Limits(time=-1e3)
    end = jax.lax.fori_loop(0, steps, lambda _, r: advance(rule, GRAVITY, r, back), turned)
    np.testing.assert_allclose(end.particles.position, begin.position, atol=1e-11)
    np.testing.assert_allclose(end.particles.velocity, begin.velocity, atol=1e-11)
    np.testing.assert_allclose(end.particles.time, 0, atol=1e-13)


def push_of_the_time():
    """A field that pushes along x as strongly as it is late: x = t^3 / 6."""
    return ExternalField(
        lambda x, time: jnp.zeros_like(x).at[:, 0].set(time),
        lambda x, time: -time * x[:, 0],
    )


@pytest.mark.parametrize("make", ["replace", "from_table"])
def test_an_acceleration_belongs_to_its_time(make):
    gravity = Gravity(external=push_of_the_time())
    table = [[1.0, 0, 0, 0, 0]]
    if make == "replace":
        begin = state_of(table, gravity=gravity).replace(time=jnp.asarray(3.0))
    else:
        begin = state_of(table, time=3.0, gravity=gravity)
        assert begin.acceleration[0, 0] == 3
    # One leapfrog step: dv is the mean of the accelerations at both ends times dt.
    limits = Limits(steps=1)
    for end in (
        run_steps(fixed(0.5), gravity, begin, 1),
        to_the_end(fixed(0.5), gravity, begin, limits),
    ):
        assert end.particles.velocity[0, 0] == pytest.approx(0.25 * (3 + 3.5), rel=1e-15)


# --- standing still -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("free-fall", jnp.float32),
        ("huayno", jnp.float32),
        ("huayno", jnp.float64),
        ("hairer-soderlind", jnp.float64),
    ],
)
def test_two_bodies_that_fall_onto_each_other_stall(name, dtype):
    rule = by_name(name, GRAVITY, 0.1)
    end = to_the_end(rule, GRAVITY, state_of(FALL, dtype), Limits(time=2.0))
    assert word(end.status) == "stalled"
    assert end.steps < 3000
    # From a distance 1 at rest, total mass 2, they meet at pi / 4 (half a degenerate period).
    np.testing.assert_allclose(end.particles.time, math.pi / 4, rtol=1e-3)
    assert np.isfinite(end.particles.position).all()


def test_steps_too_short_to_move_a_body_far_from_the_origin_stall():
    away = np.asarray(FALL) + np.array([0, 100.0, 0, 0, 0])
    rule, limits = by_name("huayno", GRAVITY, 0.1), Limits(time=2.0, steps=1_000_000)
    end = to_the_end(rule, GRAVITY, state_of(away, jnp.float32), limits)
    assert word(end.status) == "stalled"
    np.testing.assert_allclose(end.particles.time, math.pi / 4, rtol=1e-2)


def test_bodies_at_rest_that_nothing_moves_do_not_stall():
    end = to_the_end(fixed(1e-3), GRAVITY, state_of([[1.0, 1, 0, 0, 0]]), Limits(time=110.0))
    assert (end.steps, word(end.status)) == (110_000, "ended")


THIRD = [1, 2, 0, 0, 0.5]


@pytest.mark.parametrize(
    ("table", "dtype"),
    [(SAME_PLACE, jnp.float64), ([*SAME_PLACE, THIRD], jnp.float32)],
    ids=["two", "of three"],
)
@pytest.mark.parametrize("name", ["free-fall", "huayno", "hairer-soderlind", "few_bodies"])
def test_bodies_in_the_same_place_do_not_go_on(name, table, dtype):
    rule = (load_rule if name == "few_bodies" else by_name)(name, GRAVITY)
    end = run_until(rule, GRAVITY, state_of(table, dtype), Limits(time=1.0))
    assert end.status in (STALLED, NOT_FINITE)
    assert end.particles.time < 0.1


@pytest.mark.parametrize(
    ("rule", "table", "status"),
    [
        (by_name("free-fall", GRAVITY, 0.1), SAME_PLACE, STALLED),
        (memoryless(lambda p: 0 * p.time), CIRCLE, STALLED),
        (memoryless(lambda p: p.time - 1), CIRCLE, STALLED),
        (memoryless(lambda p: p.time + jnp.nan), CIRCLE, NOT_FINITE),
    ],
    ids=["same place", "dt 0", "dt < 0", "dt NaN"],
)
def test_a_step_that_leads_nowhere_is_not_taken(rule, table, status):
    begin = state_of(table)
    end = to_the_end(rule, GRAVITY, begin, Limits(time=1.0))
    assert (end.steps, end.status) == (1, status)
    np.testing.assert_array_equal(end.particles.position, begin.position)
    assert end.particles.time == 0
    assert advance(rule, GRAVITY, end, Limits(time=1.0)).status == status


@pytest.mark.parametrize(("dt", "status"), [(0.1, ENDED), (0.0, STALLED), (np.nan, NOT_FINITE)])
def test_a_rollout_of_so_many_steps_has_a_status(dt, status):
    assert run_steps(fixed(dt), GRAVITY, state_of(CIRCLE), 3).status == status


def test_a_far_end_does_not_make_a_step_short():
    limits = Limits(time=1e20, steps=5)
    end = to_the_end(fixed(0.01), GRAVITY, state_of(CIRCLE, jnp.float32), limits)
    assert (end.steps, end.status) == (5, ENDED)


def test_evaluate_says_that_a_run_stalled():
    (run,) = measure.evaluate(
        memoryless(lambda p: 0 * p.time), "", False, [problem("kepler-0.5", orbits=1)], [1.0], 100
    )
    assert (run.failed, run.steps) == ("stalled", 1)
