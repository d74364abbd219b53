"""States of individual steps that are handed out on the way, and rollouts that are gone on with."""

import jax
import numpy as np
import pytest

from jaxstepper.machine import call_budget
from jaxstepper.machine.devices import each_its_share
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping import individual_rollouts
from jaxstepper.stepping.criteria import Aarseth
from jaxstepper.stepping.individual import run_individual
from jaxstepper.stepping.individual_rollouts import (
    begin_individually,
    gone_on,
    record_individually,
)
from jaxstepper.stepping.individual_state import at_common_time
from jaxstepper.stepping.output import given_times, times_every
from jaxstepper.stepping.status import ENDED

SOFT, CRITERION = Gravity(0.05), Aarseth(0.02)
# More bodies than are evaluated at once.
STATE_OF = jax.jit(lambda table: from_table(table, SOFT.acceleration))
STARTS = [STATE_OF(table) for table in plummer_batch(3, 2, 11)]
LONGEST = 0.3


def begun(end, starts=STARTS):
    count = len(starts)
    return begin_individually(CRITERION, SOFT, starts, [end] * count, [LONGEST] * count)


def rolled(goings, times=None):
    """Rollouts at their ends, their states, and from where they can go on."""
    pieces, last = [[] for _ in goings], list(goings)

    def keep(i, rows, going):
        pieces[i].append(rows)
        last[i] = going

    ended = record_individually(None, CRITERION, SOFT, goings, keep, times)
    rows = [jax.tree.map(lambda *parts: np.concatenate(parts), *each) for each in pieces]
    return ended, rows, last


def every(between, end, after=None, count=2):
    return [times_every(0.0, between, end, after) for _ in range(count)]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


# Where all bodies meet, and between; "gpu" is the way of an accelerator, on a CPU.
@pytest.mark.parametrize(("first_end", "backend"), [(0.9, "gpu"), (1.13, "cpu")])
def test_a_rollout_goes_on_as_if_it_had_not_ended(first_end, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    whole, rows, _ = rolled(begun(2.0), every(0.125, 2.0))
    early, first, last = rolled(begun(first_end), every(0.125, first_end))
    assert [float(at_common_time(each.rollout).time) for each in early] == [first_end] * 2
    on = [gone_on(going, 2.0) for going in last]
    ended, rest, _ = rolled(on, every(0.125, 2.0, after=float(first[0].time[-1])))
    same(ended, whole)  # clocks, counters, watches and all
    for i in range(2):
        same(jax.tree.map(lambda *x: np.concatenate(x), first[i], rest[i]), rows[i])
        np.testing.assert_array_equal(rows[i].time, 0.125 * np.arange(17))


def test_where_calls_end_changes_nothing(monkeypatch):
    whole = rolled(begun(1.0), every(0.01, 1.0))
    meetings = rolled(begun(1.0))
    monkeypatch.setattr(call_budget, "next_budget", lambda *_: 7)
    same(rolled(begun(1.0), every(0.01, 1.0)), whole)
    same(rolled(begun(1.0)), meetings)


def test_calls_of_equal_rollouts_are_one_program(monkeypatch):
    programs = []

    def keep(*arguments):
        programs.append(each_its_share(*arguments))
        return programs[-1]

    monkeypatch.setattr(individual_rollouts, "each_its_share", keep)
    monkeypatch.setattr(call_budget, "next_budget", lambda *_: 20)
    for end in (0.6, 1.0):
        gravity = Gravity(0.04)  # no other test's
        goings = begin_individually(CRITERION, gravity, STARTS, [end] * 2, [LONGEST] * 2)
        record_individually(None, CRITERION, gravity, goings)
    assert programs[0] is programs[1]
    assert programs[0]._cache_size() == 1


def test_states_at_times_are_those_of_rollouts_to_them_and_change_nothing():
    times = [0.0, 0.3, 0.41, 0.97, 1.0, 3.0]
    ended, rows, _ = rolled(begun(1.0), [given_times(times, 0.0, 1.0) for _ in STARTS])
    for end, path, first in zip(ended, rows, STARTS, strict=True):
        np.testing.assert_array_equal(path.time, times[:-1])
        for time, position, velocity in zip(times, path.position, path.velocity, strict=False):
            there = at_common_time(run_individual(CRITERION, SOFT, first, time, LONGEST))
            np.testing.assert_allclose(position, there.position, rtol=0, atol=1e-13)
            np.testing.assert_allclose(velocity, there.velocity, rtol=0, atol=1e-12)
        plain = run_individual(CRITERION, SOFT, first, 1.0, LONGEST)
        assert int(end.rollout.status) == ENDED and int(end.rollout.steps) == int(plain.steps)
        np.testing.assert_allclose(end.rollout.motion, plain.motion, rtol=0, atol=1e-11)
        # Between the times of the bodies, energy is as good as on the path.
        errors = np.abs(path.energy / path.energy[0] - 1)
        assert errors.max() < 2 * float(end.watch.worst) < 1e-4


def test_more_times_than_a_call_keeps_and_backwards():
    there, rows, _ = rolled(begun(-0.5, STARTS[:1]), [times_every(0.0, 2e-4, -0.5)])
    np.testing.assert_array_equal(rows[0].time, -2e-4 * np.arange(2501))
    assert np.all(rows[0].dt[1:] < 0)
    mirrored = STARTS[0].replace(velocity=-STARTS[0].velocity)
    onwards, other, _ = rolled(begun(0.5, [mirrored]), [times_every(0.0, 2e-4, 0.5)])
    np.testing.assert_allclose(rows[0].position, other[0].position, atol=1e-12)
    assert int(there[0].rollout.steps) == int(onwards[0].rollout.steps)


def test_the_last_of_many_times_is_the_end():
    # 3 x 0.1 is above 0.3.
    _, rows, _ = rolled(begun(0.3, STARTS[:1]), every(0.1, 0.3, count=1))
    assert rows[0].time.tolist() == [0, 0.1, 0.2, 0.3]


def test_a_rollout_of_no_length_has_one_state_and_goes_on():
    whole, _, _ = rolled(begun(1.0, STARTS[:1]))
    _, rows, last = rolled(begun(0.0, STARTS[:1]))
    assert rows[0].time.tolist() == [0]
    ended, _, _ = rolled([gone_on(last[0], 1.0)])
    same(ended, whole)
