"""Individual steps: their order, their clock, their counts, and that nothing depends on batches."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, plummer_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping import individual
from jaxstepper.stepping.block_steps import first_step, next_step, power_of_two_below
from jaxstepper.stepping.criteria import Aarseth, Derivatives
from jaxstepper.stepping.individual import first_of, longest_step, run_individual, turn
from jaxstepper.stepping.individual_rollouts import roll_out_individually
from jaxstepper.stepping.individual_state import at_common_time, at_time, evaluations
from jaxstepper.stepping.status import ENDED, NOT_FINITE, STALLED

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/individual_steps.json").read_text())
SOFT = Gravity(0.05)
EIGHT = plummer_batch(3, 2, 8)
SPAN = 0.7
start = jax.jit(individual.start, static_argnums=1)
LONGEST = 0.3  # does not divide the time: the last of three blocks ends early


@partial(jax.jit, static_argnums=(1, 2))
def state(table, gravity=SOFT, dtype=float):
    return from_table(table, gravity.acceleration, dtype)


def eight(eta=0.02, table=EIGHT[0], end=SPAN):
    return run_individual(Aarseth(eta), SOFT, state(table), end, LONGEST)


def test_the_error_goes_as_the_fourth_power_of_the_step():
    # A quarter of eta halves every step.
    eccentricity, period = 0.5, 2 * np.pi
    pair = state(kepler_pair(eccentricity, total_mass=1.0), Gravity())
    etas = 0.02 * 0.25 ** np.arange(4)
    ends = [run_individual(Aarseth(eta), Gravity(), pair, period, 0.5) for eta in etas]
    # After a period the bodies are back.
    errors = [np.abs(np.asarray(end.motion[0].T - pair.position)).max() for end in ends]
    order = np.polyfit(0.5 * np.log(etas), np.log(errors), 1)[0]
    assert order == pytest.approx(4, abs=0.3)
    assert errors[-1] < 1e-6


def test_small_steps_agree_with_ias15():
    rebound = pytest.importorskip("rebound")
    simulation = rebound.Simulation()
    simulation.integrator, simulation.softening = "ias15", SOFT.softening
    for m, x, y, z, vx, vy, vz in EIGHT[0]:
        simulation.add(m=m, x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
    simulation.integrate(SPAN)
    theirs = np.array([[*body.xyz, *body.vxyz] for body in simulation.particles])
    end = at_common_time(eight(1e-4))
    np.testing.assert_allclose(end.position, theirs[:, :3], atol=1e-8)
    np.testing.assert_allclose(end.velocity, theirs[:, 3:], atol=1e-7)


@pytest.mark.parametrize("run", GOLDEN["runs"][::2], ids=lambda run: str(run["bodies"]))
def test_as_many_bodies_are_evaluated_as_by_another_program(run):
    gravity, bodies = Gravity(GOLDEN["softening"]), run["bodies"]
    first = state(plummer_batch(GOLDEN["seed"], 1, bodies)[0], gravity)
    end = run_individual(Aarseth(run["eta"]), gravity, first, GOLDEN["end_time"], GOLDEN["longest"])
    evaluated = evaluations(end) - bodies  # the other has no snap at the start
    assert evaluated == pytest.approx(run["evaluated"], rel=0.1)
    assert int(end.steps) == pytest.approx(run["steps"], rel=0.1)


def test_only_bodies_that_are_due_move_and_all_of_them_are_counted():
    criterion, first = Aarseth(0.05), state(EIGHT[0])
    one = jax.jit(partial(turn, gravity=SOFT, tile=3), static_argnames=("gravity", "tile"))
    longest = SPAN / 3  # divides the time, so that no step is cut short
    now = start(criterion, SOFT, first, SPAN, longest)
    counted, turns = evaluations(now), 0
    while int(now.status) != ENDED:
        new = one(criterion, state=now)
        due = np.asarray(now.own_time + now.step)
        may_move = due == due.min()
        moved = np.any(np.asarray(new.motion != now.motion), axis=(0, 1))
        assert not np.any(moved & ~may_move)
        assert moved.sum() == min(3, may_move.sum())
        step, time = np.asarray(new.step), np.asarray(new.own_time)
        np.testing.assert_array_equal(np.frexp(step)[0], 0.5)  # powers of two
        np.testing.assert_array_equal(time % step, 0)
        assert np.all(step <= 1) and np.all((time + step <= 1) | (time == 1))
        counted, turns, now = counted + moved.sum(), turns + 1, new
    whole = run_individual(criterion, SOFT, first, SPAN, longest)
    assert counted == evaluations(now) == evaluations(whole)
    assert int(now.steps) == int(whole.steps) < turns
    np.testing.assert_allclose(now.motion, whole.motion, atol=1e-9)


def test_the_end_is_exact_and_the_way_back_leads_to_the_start():
    end = eight(0.001)
    last = at_common_time(end)
    assert int(end.status) == ENDED and int(end.block) == 3
    assert float(last.time) == SPAN
    np.testing.assert_array_equal(at_time(end, SPAN).position, last.position)
    back = run_individual(Aarseth(0.001), SOFT, last, 0.0, LONGEST)
    assert float(at_common_time(back).time) == 0
    np.testing.assert_allclose(back.motion[0].T, EIGHT[0][:, 1:4], atol=1e-5)


def test_states_between_times_are_predicted():
    end = eight(0.001)
    later = at_time(end, SPAN + 1e-3)
    longer = at_common_time(eight(0.001, end=SPAN + 1e-3))
    np.testing.assert_allclose(later.position, longer.position, atol=1e-8)
    np.testing.assert_allclose(later.velocity, longer.velocity, atol=1e-6)


def test_the_order_of_the_bodies_does_not_matter():
    plain, turned = eight(), eight(table=EIGHT[0][::-1].copy())
    assert evaluations(plain) == evaluations(turned)
    np.testing.assert_allclose(plain.motion, turned.motion[..., ::-1], atol=1e-9)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # the way of an accelerator, on a CPU
def test_a_batch_is_its_systems(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    starts, ends = [state(table) for table in EIGHT], [SPAN, 0.5]
    rolled, paths = roll_out_individually(
        None, Aarseth(0.02), SOFT, starts, ends, [LONGEST, 0.1], keep=True
    )
    for first, end, longest, (last, watch), path in zip(
        starts, ends, (LONGEST, 0.1), rolled, paths, strict=True
    ):
        alone = run_individual(Aarseth(0.02), SOFT, first, end, longest)
        assert evaluations(alone) == evaluations(last) and int(last.status) == ENDED
        np.testing.assert_allclose(alone.motion, last.motion, atol=1e-9)
        np.testing.assert_allclose(path.time[:-1], longest * np.arange(last.blocks), rtol=1e-15)
        assert path.time[-1] == end
        np.testing.assert_array_equal(path.position[0], first.position)
        np.testing.assert_array_equal(path.position[-1], at_common_time(last).position)
        energy = [float(total_energy(p, SOFT)) for p in (first, at_common_time(last))]
        np.testing.assert_allclose(path.energy[[0, -1]], energy, rtol=1e-12)
        assert 0 < float(watch.worst) < 1e-4


def test_under_vmap_too():
    many = jax.tree.map(lambda *x: jnp.stack(x), *map(state, EIGHT))
    ends = jax.vmap(lambda p: run_individual(Aarseth(0.02), SOFT, p, SPAN, LONGEST))(many)
    for i, table in enumerate(EIGHT):
        alone = eight(table=table)
        assert int(ends.evaluated[i, 1]) == evaluations(alone)
        np.testing.assert_allclose(ends.motion[i], alone.motion, atol=1e-9)


def test_float32_stays_float32():
    end = run_individual(
        Aarseth(jnp.float32(0.02)), SOFT, state(EIGHT[0], dtype=jnp.float32), SPAN, LONGEST
    )
    assert end.motion.dtype == end.step.dtype == jnp.float32 and int(end.status) == ENDED
    np.testing.assert_allclose(end.motion[0], eight().motion[0], atol=1e-4)


def test_float32_takes_the_same_steps_in_units_in_which_derivatives_are_small():
    ends = []
    for scale in (1.0, 2.0**-26):  # of masses; then the square of a crackle is no number
        table = EIGHT[0] * ([scale] + [1] * 3 + [scale**0.5] * 3)
        particles, eta = state(table, dtype=jnp.float32), jnp.float32(0.02)
        spans = (x / np.float32(scale) ** 0.5 for x in (SPAN, LONGEST))
        ends.append(run_individual(Aarseth(eta), SOFT, particles, *spans))
    assert int(ends[0].steps) == int(ends[1].steps)
    assert evaluations(ends[0]) == evaluations(ends[1])


def test_one_body_in_a_field_that_changes_with_time():
    # x'' = -x + cos(2 t) has the solution x = (4 cos t - cos 2t) / 3 from x = 1 at rest, where
    # neither acceleration nor jerk tells how long the first step should be.
    def acceleration(x, time):
        return jnp.cos(2 * time) - x

    gravity = Gravity(external=ExternalField(acceleration, lambda x, time: jnp.zeros(len(x))))
    body = state(np.array([[0.0, 1.0, 0.0]]), gravity)
    end = run_individual(Aarseth(1e-3), gravity, body, 3.0, 0.5)
    expected = (4 * np.cos(3) - np.cos(6)) / 3
    assert float(end.motion[0, 0, 0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mass", [1e-10, 1e10])
def test_the_longest_step_in_a_field_is_that_of_bodies_of_any_mass(mass):
    field = ExternalField(lambda x, t: -4 * x, lambda x, t: 2 * jnp.sum(x**2, axis=1))
    gravity = Gravity(external=field)
    assert longest_step(gravity, state(np.array([[mass, 1, 0, 0, 0]]), gravity), 8.0) == 0.5


def test_blocks_that_cannot_be_counted_have_stalled():
    begin = start(Aarseth(0.02), SOFT, state(EIGHT[0]), 1.0, 1e-12)
    assert int(begin.status) == STALLED


def test_massless_bodies_feel_and_do_nothing():
    # A test body on a circular orbit about a fixed mass, and a body so far away that it rests.
    table = np.array([[1.0, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, 1e9, 0, 0, 0]])
    end = run_individual(Aarseth(1e-3), Gravity(), state(table, Gravity()), np.pi, 0.5)
    np.testing.assert_allclose(end.motion[0].T, [[0, 0], [-1, 0], [1e9, 0]], atol=1e-5)
    assert int(end.status) == ENDED


def test_a_body_on_which_forces_cancel_does_not_stall():
    # Euler's collinear orbit, at an angle: the force on the middle body is rounding alone.
    cos, sin, speed = np.cos(0.3), np.sin(0.3), np.sqrt(1.25)
    x, v = np.array([cos, sin]), speed * np.array([-sin, cos])
    off = np.array([0.1, 0.2])  # so that the two do not cancel exactly
    table = np.array([[1.0, *off - x, *-v], [1, *off, 0, 0], [1, *off + x, *v]])
    end = run_individual(Aarseth(0.01), Gravity(), state(table, Gravity()), 1.0, 0.25)
    assert int(end.status) == ENDED
    np.testing.assert_allclose(np.linalg.norm(end.motion[0].T - off, axis=1), [1, 0, 1], atol=1e-5)
    assert evaluations(end) < 1000


def test_a_collision_ends_the_rollout():
    table = np.array([[1.0, -1, 0, 0, 0], [1, 1, 0, 0, 0]])
    end = run_individual(Aarseth(0.01), Gravity(), state(table, Gravity()), 10.0, 0.25)
    assert int(end.status) in (STALLED, NOT_FINITE)
    # They fall for pi sqrt(d^3 / (8 M)).
    time = float(end.begin + end.length * (end.block + end.now))
    assert time == pytest.approx(np.pi / np.sqrt(2), rel=1e-3)


def test_aarseths_criterion_on_a_circle():
    eta = 0.02
    axes = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])[:, None]
    for w in (3.0, 1e9):  # in float32, in which the square of c would overflow
        a, j, s, c = (w**k * axis for k, axis in enumerate(axes))
        known = Derivatives(*map(jnp.float32, (a, j, s, c, [1.0], [0.1 / w], 0 * a, 1.0)))
        assert float(Aarseth(eta).step_size(known)[0]) == pytest.approx(np.sqrt(eta) / w)
    a, j, s, _ = (jnp.asarray(3.0**k * axis) for k, axis in enumerate(axes))
    for motion, rate in (((a, j, s), 3 / np.sqrt(2)), ((a, 0 * j, s), 3), ((0 * a, j, s), 3)):
        first = Aarseth(eta).first_step(*motion)
        assert float(first[0]) == pytest.approx(0.1 * np.sqrt(eta) / rate)
    nothing = Derivatives(
        *(jnp.zeros((1, 2)),) * 4, jnp.ones(1), jnp.ones(1), jnp.zeros((1, 2)), 1.0
    )
    assert Aarseth(eta).step_size(nothing)[0] == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_are_exact(dtype):
    x = np.exp(np.random.default_rng(0).uniform(-80, 80, 1000)).astype(dtype)
    x = np.concatenate([x, np.exp2(np.arange(-30, 30)).astype(dtype)])
    exponent = np.frexp(x)[1]
    np.testing.assert_array_equal(power_of_two_below(jnp.asarray(x)), np.ldexp(0.5, exponent))


def test_steps_are_halved_at_will_and_doubled_when_the_time_allows():
    step = partial(next_step, jnp.float64(0.25))
    assert step(jnp.float64(0.1), jnp.float64(0.25)) == 0.0625
    assert step(jnp.float64(0.3), jnp.float64(0.5)) == 0.25
    assert step(jnp.float64(0.6), jnp.float64(0.5)) == 0.5
    assert step(jnp.float64(9.0), jnp.float64(0.5)) == 0.5
    assert step(jnp.float64(0.6), jnp.float64(0.75)) == 0.25
    assert next_step(jnp.float64(1.0), jnp.float64(9.0), jnp.float64(1.0)) == 1
    assert first_step(jnp.float64(9.0)) == 1


# Part of a group of bodies counted together, several groups, and all or none of them.
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize(("count", "most"), [(5, 5), (128, 8), (300, 64), (1000, 16)])
def test_the_first_that_are_due_are_found_without_sorting(count, most, share):
    chosen = np.random.default_rng(count).random(count) < share
    first = np.flatnonzero(chosen)[:most]
    expected = np.pad(first, (0, most - len(first)))
    np.testing.assert_array_equal(first_of(jnp.asarray(chosen), most), expected)
