"""States that are handed out on the way of a rollout, and rollouts that are gone on with."""

import jax
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.stepping import output
from jaxstepper.stepping.literature import by_name

GRAVITY = js.Gravity()
START = js.from_table(js.kepler_pair(0.6, total_mass=1.0, phase=np.pi), GRAVITY.acceleration)
PLAIN = js.symmetrized(js.free_fall(0.05))
RULES = {
    "symmetrised": PLAIN,
    "symmetrised fourth order": PLAIN.on(js.Chin()),
    "reversible with a memory": js.HairerSoderlind(0.05),
    "hermite": js.free_fall(0.05).on(js.Hermite()),
    "logarithmic": by_name("logarithmic-hamiltonian", GRAVITY, 0.05),
}


def rolled(rule, end, going=None, times=None, start=START):
    """A rollout to a time: its end, its states, and from where it can go on."""
    limits = js.Limits(time=end)
    pieces, last = [], []

    def keep(rows, going):
        pieces.append(rows)
        last.append(going)

    going = going or output.begin(rule, GRAVITY, start, limits)
    ended = output.record_on(rule, GRAVITY, going, limits, keep, times)
    rows = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces) if pieces else None
    return ended, rows, last[-1] if last else going


def every(between, end, after=None, first=0.0):
    return output.times_every(first, between, end, after)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rollout_goes_on_as_if_it_had_not_ended(rule):
    whole, rows, _ = rolled(rule, 12.0, times=every(0.5, 12.0))
    _, first, going = rolled(rule, 5.3, times=every(0.5, 5.3))
    on, rest, _ = rolled(rule, 12.0, going, every(0.5, 12.0, after=float(first.time[-1])))
    same(on, whole)  # clocks, memories, watches and all
    same(jax.tree.map(lambda *parts: np.concatenate(parts), first, rest), rows)
    np.testing.assert_array_equal(rows.time, 0.5 * np.arange(25))


@pytest.mark.parametrize("rule", [PLAIN, RULES["logarithmic"]], ids=["leapfrog", "logarithmic"])
def test_a_state_at_a_time_is_that_of_a_rollout_to_it(rule):
    ended, rows, _ = rolled(rule, 12.0, times=output.given_times([3.7, 0.0, 9.0], 0.0, 12.0))
    for row, time in enumerate((0.0, 3.7, 9.0)):
        there = js.run_until(rule, GRAVITY, START, js.Limits(time=time)).particles
        np.testing.assert_allclose(rows.position[row], there.position, rtol=0, atol=1e-13)
        assert rows.time[row] == time
    plain = js.run_until(rule, GRAVITY, START, js.Limits(time=12.0))
    np.testing.assert_allclose(
        ended.rollout.particles.position, plain.particles.position, atol=1e-12
    )
    assert int(ended.rollout.steps) == int(plain.steps)


def test_every_step_is_that_of_record():
    ended, rows, _ = rolled(PLAIN, 12.0)
    end, path = js.record(PLAIN, GRAVITY, START, js.Limits(time=12.0))
    np.testing.assert_array_equal(rows.position, path.position)
    np.testing.assert_array_equal(rows.dt[1:], path.dt)
    error = np.max(np.abs(path.energy / path.energy[0] - 1))
    assert float(ended.watch.worst) == pytest.approx(error, rel=1e-9)
    assert int(end.steps) == int(ended.rollout.steps)


def test_times_that_are_closer_than_steps_and_more_than_a_call_keeps():
    _, rows, _ = rolled(PLAIN, 2.0, times=every(1e-3, 2.0))
    np.testing.assert_array_equal(rows.time, 1e-3 * np.arange(2001))
    # All of them on one ellipse: the energy error of a cut step is no larger than that of a whole.
    assert np.max(np.abs(rows.energy / rows.energy[0] - 1)) < 2e-3


def test_backwards_from_a_start_time():
    start = START.replace(time=START.time + 7.0)
    _, there, _ = rolled(PLAIN, 7.0 - 5.0, times=every(1.0, 2.0, first=7.0), start=start)
    np.testing.assert_array_equal(there.time, 7.0 - np.arange(6))
    _, forwards, _ = rolled(PLAIN, 12.0, times=every(1.0, 12.0, first=7.0), start=start)
    # A pair at apocentre: the way back is the way there, mirrored.
    mirrored = forwards.position * [1, -1]
    np.testing.assert_allclose(there.position, mirrored, atol=1e-11)


def test_times_before_the_start_are_refused():
    with pytest.raises(UserError, match="the rollout begins at 0"):
        output.given_times([-1.0, 2.0], 0.0, 12.0)


def test_a_rollout_of_no_length_has_one_state():
    ended, rows, _ = rolled(PLAIN, 0.0)
    assert rows.time.tolist() == [0.0] and int(ended.rollout.steps) == 0


def test_record_takes_times():
    times = [9.0, 0.0, 3.7, 50.0]
    end, path = js.record(PLAIN, GRAVITY, START, js.Limits(time=12.0), times=times)
    ended, rows, _ = rolled(PLAIN, 12.0, times=output.given_times(times, 0.0, 12.0))
    assert path.time.tolist() == [0.0, 3.7, 9.0] and path.dt.shape == (2,)
    np.testing.assert_array_equal(path.position, rows.position)
    assert repr(path) == "Trajectory(3 states of 2 bodies in 2D, time 0 to 9)"
    same(end, ended.rollout)
    _, every_step = js.record(PLAIN, GRAVITY, START, js.Limits(time=12.0))
    # The steps that led past the times.
    led = np.searchsorted(every_step.time, path.time[1:]) - 1
    np.testing.assert_allclose(path.dt, every_step.dt[led], rtol=1e-12)
    with pytest.raises(UserError, match="the rollout begins at 0"):
        js.record(PLAIN, GRAVITY, START, js.Limits(time=12.0), times=[-1.0])
    _, nothing = js.record(PLAIN, GRAVITY, START, js.Limits(time=12.0), times=[13.0])
    assert repr(nothing) == "Trajectory(0 states of 2 bodies in 2D)"


def test_the_last_of_many_times_is_the_end():
    _, rows, _ = rolled(PLAIN, 0.3, times=every(0.1, 0.3))  # 3 x 0.1 is above 0.3
    assert rows.time.tolist() == [0, 0.1, 0.2, 0.3]


def test_times_that_a_rollout_has_passed_are_not_made_up():
    # A file that ends at 5.3 with states at 0 and 5 goes on with states at each 0.1 from there on.
    assert list(output.chosen_times(None, [5.1, 5.2, 5.4], 0.0, 6.0, after=5.25)) == [5.4]
