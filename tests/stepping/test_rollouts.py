"""Rollouts in device calls of bounded length, against those in one call."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.problems import problem
from jaxstepper.machine import call_budget
from jaxstepper.machine.devices import each_its_share
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import figure_eight, random_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.runs.models import load_rule
from jaxstepper.stepping import many_rollouts as rollouts
from jaxstepper.stepping import side_by_side
from jaxstepper.stepping.literature import by_name
from jaxstepper.stepping.many_rollouts import roll_out
from jaxstepper.stepping.recording import record
from jaxstepper.stepping.rollout import Limits, run_until
from jaxstepper.stepping.rule import fixed, symmetrized
from jaxstepper.stepping.scheme import Chin, Hermite

GRAVITY = Gravity()
RULES = {
    "fixed": fixed(0.01),
    "free-fall": symmetrized(by_name("free-fall", GRAVITY, 0.05)),
    "huayno on hermite": by_name("huayno", GRAVITY, 0.05).on(Hermite()),
    "huayno on chin": by_name("huayno", GRAVITY, 0.05).on(Chin()),
    "few_bodies": load_rule("few_bodies", GRAVITY),
}
# Two bodies in one place.
COLLIDED = np.array([[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1, 0]], float)


@jax.jit
def state_of(table):
    return from_table(table, GRAVITY.acceleration, jnp.float64)


def starts(tables):
    return [state_of(table) for table in tables]


def assert_same_bits(mine, theirs):
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def shares(monkeypatch):
    """What every call reports; the first has 7 steps, and the others have 20."""
    monkeypatch.setattr(rollouts, "FIRST_STEPS", 7)
    monkeypatch.setattr(call_budget, "next_budget", lambda *_: 20)
    return []


@pytest.mark.parametrize("rule", [fixed(0.01), by_name("hairer-soderlind", GRAVITY, 0.02)])
def test_a_rollout_in_many_calls_is_the_one_in_one_call(rule, shares):
    (first,) = starts([figure_eight()])
    ((rollout, _),) = roll_out(None, rule, GRAVITY, [first], [Limits(steps=100)], shares.append)
    assert_same_bits(rollout, run_until(rule, GRAVITY, first, Limits(steps=100)))
    np.testing.assert_allclose(shares, [0.07, 0.27, 0.47, 0.67, 0.87, 1.0], rtol=1e-6)


def test_many_rollouts_in_many_calls_are_those_in_one_call(shares):
    firsts = starts(random_batch(0, 2, 3, 2, 1.0, 1.0, 1.0))
    limits = [Limits(time=0.105), Limits(time=0.5, steps=30)]
    ends = roll_out(None, fixed(0.01), GRAVITY, firsts, limits, shares.append)
    done = [(0.07 / 0.105 + 7 / 30) / 2, (1 + 27 / 30) / 2, 1.0]
    np.testing.assert_allclose(shares, done, rtol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "FIRST_STEPS", 100)
        at_once = roll_out(None, fixed(0.01), GRAVITY, firsts, limits, shares.append)
    assert shares[3:] == [1.0]
    assert_same_bits(ends, at_once)
    for (end, _), first, limit in zip(ends, firsts, limits, strict=True):
        alone = run_until(fixed(0.01), GRAVITY, first, limit)
        for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", RULES)
def test_side_by_side_each_ends_as_it_does_alone(name):
    """More than go in a loop at a time, that end at times and after steps of their own, or fail."""
    count = side_by_side.LANES + 3
    firsts = starts(np.concatenate([random_batch(0, count - 1, 3, 3, 1, 1, 1), [COLLIDED]]))
    times, steps = np.linspace(0.0, 0.3, count), 5 + np.arange(count) % 16
    limits = [Limits(*each) for each in zip(times.tolist(), steps.tolist(), strict=True)]
    rule = RULES[name]
    found = roll_out(None, rule, GRAVITY, firsts, limits)
    alone = jax.jit(partial(run_until, rule, GRAVITY))
    for i in (0, 1, 40, 63, 64, 65, count - 1):
        expected = alone(firsts[i], Limits(jnp.asarray(times[i]), jnp.int32(steps[i])))
        (end, watch), p = found[i], expected.particles
        assert (end.steps, end.status) == (expected.steps, expected.status)
        np.testing.assert_allclose(end.particles.position, p.position, rtol=1e-9)
        np.testing.assert_allclose(end.particles.velocity, p.velocity, rtol=1e-8)
        np.testing.assert_allclose(end.particles.time, p.time, rtol=1e-12)
        if i in (40, count - 1):
            ((_, seen),) = roll_out(None, rule, GRAVITY, [firsts[i]], [limits[i]])
            np.testing.assert_allclose(watch.worst, seen.worst, rtol=1e-6, atol=1e-13)


def test_calls_of_equal_rollouts_are_one_program(shares, monkeypatch):
    programs = []

    def keep(*arguments):
        programs.append(each_its_share(*arguments))
        return programs[-1]

    monkeypatch.setattr(rollouts, "each_its_share", keep)
    for _ in range(2):
        gravity = Gravity(0.01)  # no other test's
        rule = by_name("hairer-soderlind", gravity, 0.02)
        roll_out(None, rule, gravity, starts([figure_eight()]), [Limits(steps=60)], shares.append)
    assert len(shares) == 8
    assert programs[0] is programs[1]
    assert programs[0]._cache_size() == 1


@pytest.mark.parametrize("budget", [3, 50])
def test_what_is_recorded_and_measured_does_not_depend_on_where_calls_end(budget, monkeypatch):
    rule, (first,) = by_name("free-fall", GRAVITY, 0.05), starts([figure_eight()])
    problems = [problem("kepler-0.5", orbits=1), problem("kepler-0.9", orbits=1)]

    def results():
        calls = []
        rollout, path = record(rule, GRAVITY, first, Limits(time=2.0), calls.append)
        runs = list(evaluate(rule, "", False, problems, [2.0, 1.0], 200, calls.append))
        return len(calls), (rollout, path), [replace(run, seconds=0.0) for run in runs]

    _, recorded, measured = results()
    monkeypatch.setattr(call_budget, "next_budget", lambda *_: budget)
    calls, recorded_anew, measured_anew = results()
    taken = [int(recorded[0].steps), max(run.steps for run in measured)]
    assert calls == sum(1 + -(-(steps - 1) // budget) for steps in taken)
    assert_same_bits(recorded_anew, recorded)
    assert measured_anew == measured


def test_a_record_that_is_at_its_limit_holds_its_start_alone():
    (first,) = starts([figure_eight()])
    rollout, path = record(fixed(0.1), GRAVITY, first, Limits(steps=0))
    assert rollout.steps == 0
    assert path.dt.shape == (0,)
    assert path.position.shape == (1, 3, 2)
