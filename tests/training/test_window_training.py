"""The loss of a window of steps, and training by it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, orbital_period, plummer_batch
from jaxstepper.physics.pairs import Pairs
from jaxstepper.physics.particles import from_table
from jaxstepper.runs import checkpoints
from jaxstepper.stepping.literature import free_fall
from jaxstepper.stepping.recording import record
from jaxstepper.stepping.rollout import Limits
from jaxstepper.stepping.rule import fixed, symmetrized
from jaxstepper.training.run import run
from jaxstepper.training.windows.draws import draw_windows, period_of
from jaxstepper.training.windows.epoch import iterate, loss_of_draw
from jaxstepper.training.windows.loss import SMOOTH, Window, imitation_loss, run_window, window_loss
from jaxstepper.training.windows.objective import Windows
from jaxstepper.training.windows.state import init_window_state

GRAVITY = Gravity()
OPTIMIZER = optax.adam(1e-3)
PLAN = Windows(
    network=StepNetwork((8,), dropout=0.0, positive=False),
    features=FeatureSpec("orbital"),
    gravity=GRAVITY,
    optimizer=OPTIMIZER,
    iterations=3,
    batch=4,
    steps=96,
    spans=1.5,
    tolerances=(1e-3, 3e-2),
)
TABLES = np.stack([kepler_pair(e, phase=np.pi) for e in np.linspace(0.1, 0.5, 6).tolist()])
SPANS = np.array([orbital_period(table) for table in TABLES])


first_state = jax.jit(init_window_state, static_argnums=0)
window_of = jax.jit(run_window, static_argnums=(1, 4))


def new_state(seed=0):
    return first_state(PLAN, TABLES, SPANS, jax.random.PRNGKey(seed))


def leaves_of(state):
    return [np.asarray(x) for x in jax.tree.leaves(state)]


@jax.jit
def one_by_one(params, draws):
    """Loss and gradient of each window, in a program of one."""

    def loss(params, draw):
        return loss_of_draw(PLAN, False, params, {}, draw)[0]

    return jax.lax.map(lambda draw: jax.value_and_grad(loss)(params, draw), draws)


def test_a_window_counts_the_steps_and_finds_the_largest_error_of_a_recorded_rollout():
    table, period = kepler_pair(0.5, phase=np.pi), orbital_period(kepler_pair(0.5))
    particles = from_table(table, GRAVITY.acceleration, jnp.float64)
    rule = symmetrized(free_fall(0.7))
    window = window_of(rule, GRAVITY, particles, jnp.asarray(1.2 * period), 512)
    _, seen = record(rule, GRAVITY, particles, Limits(time=1.2 * period))
    largest = np.max(np.abs(seen.energy / seen.energy[0] - 1))
    assert abs(float(jnp.exp(window.log_steps)) - len(seen.dt)) <= 1
    assert largest <= np.exp(window.log_error) * 1.0001 < largest * len(seen.dt) ** (1 / 32)
    assert window.covered == 1
    changes = np.abs(np.diff(np.log(np.diff(seen.time)[:-1])))
    expected = np.sum(np.maximum(changes - SMOOTH, 0) ** 2) / np.exp(window.log_steps)
    assert expected > 1e-4
    np.testing.assert_allclose(window.roughness, expected, rtol=1e-9)


def test_a_window_with_too_few_steps_says_so_and_counts_them_per_time():
    particles = from_table(kepler_pair(0.0), GRAVITY.acceleration, jnp.float64)
    window = window_of(fixed(0.01), GRAVITY, particles, jnp.asarray(2.0), 50)
    np.testing.assert_allclose(window.covered, 0.25, rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(window.log_steps), 200, rtol=1e-12)


def test_steps_after_the_window_do_not_count():
    particles = from_table(kepler_pair(0.9, phase=np.pi), GRAVITY.acceleration, jnp.float64)
    span = jnp.asarray(0.5)  # long before pericentre
    few, many = (window_of(fixed(0.1), GRAVITY, particles, span, n) for n in (10, 100))
    np.testing.assert_allclose(few.log_error, many.log_error, rtol=1e-12)
    np.testing.assert_allclose(few.log_steps, many.log_steps, rtol=1e-12)


def test_the_gradient_of_the_work_is_that_of_differences():
    particles = from_table(kepler_pair(0.3, phase=np.pi), GRAVITY.acceleration, jnp.float64)

    @jax.jit
    def loss(eta):
        rule = symmetrized(free_fall(eta))
        window = window_of(rule, GRAVITY, particles, jnp.asarray(4.0), 96)
        return window_loss(window, jnp.asarray(1e-3))

    difference = (loss(0.06 + 1e-6) - loss(0.06 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(loss)(0.06), difference, rtol=1e-5)


def test_the_loss_prefers_fewer_steps_at_the_error_and_the_tolerance_along_a_curve():
    def loss(steps, error):
        window = Window(jnp.log(error), jnp.log(steps), jnp.ones(()), jnp.zeros(()))
        return float(window_loss(window, jnp.asarray(1e-3)))

    assert loss(90, 1e-3) < loss(100, 1e-3)
    assert loss(100, 1e-3) < min(loss(50, 4e-3), loss(200, 2.5e-4))


def test_the_reference_is_the_symmetrised_free_fall_rule():
    state = new_state()
    particles = from_table(TABLES[3], GRAVITY.acceleration, jnp.float64)
    rule = symmetrized(free_fall(0.01))
    window = window_of(rule, GRAVITY, particles, jnp.asarray(SPANS[3]), 4096)
    work = window.log_steps + 0.5 * window.log_error
    np.testing.assert_allclose(state.pool.work[3], work, atol=0.03)


def test_a_draw_depends_on_the_key_alone_and_keeps_to_tolerances_and_steps():
    pool = new_state().pool
    draws = [draw_windows(PLAN, pool, jax.random.PRNGKey(k)) for k in (1, 1, 2)]
    assert all(np.array_equal(x, y) for x, y in zip(draws[0], draws[1], strict=True))
    assert not np.array_equal(draws[0].tolerance, draws[2].tolerance)
    for draw in draws:
        assert np.all((draw.tolerance >= 1e-3) & (draw.tolerance <= 3e-2))
        needed = np.exp(draw.work) / np.sqrt(draw.tolerance) * draw.spans
        assert np.all((needed <= 0.8 * 96 + 1e-9) & (draw.spans <= 1.5))


def test_the_tolerance_is_raised_where_the_steps_are_too_few_for_half_an_orbit():
    pool, few = new_state().pool, replace(PLAN, steps=32)
    draw = draw_windows(few, pool, jax.random.PRNGKey(1))
    assert np.min(draw.spans) > 0.6 - 1e-9
    raised = draw.spans < 0.6 + 1e-9
    assert np.any(raised) and np.all(draw.tolerance[raised] > 1e-3)


def test_the_shortest_window_shows_a_tight_binary_all_around_its_orbit():
    """A binary in a span of many of its periods; one in a span of half a period; and no binary."""
    a, mu = 0.01, 0.25
    period = 2 * np.pi * np.sqrt(a**3 / mu)
    tables = plummer_batch(2, 12, 8, 1, (a, a), (0.5, 0.5))
    plan = replace(PLAN, steps=8)
    for span, most in ((1.0, 1.2 * period), (period / 2, 0.3 * period)):
        pool = first_state(plan, tables, np.full(12, span), jax.random.PRNGKey(0)).pool
        draw = draw_windows(plan, pool, jax.random.PRNGKey(1))
        binary = np.array([is_close(table) for table in np.asarray(draw.table)])
        assert 0 < binary.sum() < len(binary)
        raised = draw.tolerance > 3e-2
        np.testing.assert_allclose(draw.time[binary & raised], most, rtol=0.05)
        assert np.all(draw.time[~binary & raised] > 0.3 * span)


def is_close(table):
    return np.linalg.norm(table[0, 1:4] - table[1, 1:4]) < 0.03


@pytest.mark.parametrize("softening", [0.0, 1e-4, 1.0, 100.0])
def test_the_period_of_a_pair_is_that_of_kepler_or_of_the_softened_core(softening):
    r, v, mu = 2.0, 0.5, 3.0
    v = v if softening < 1 else 0.0
    pairs = Pairs(*(jnp.array([x]) for x in (r**2 + softening**2, mu, 1.0, 0.0, v**2, 1.0)))
    period = float(period_of(pairs, softening)[0])
    kepler = 2 * np.pi * np.sqrt(1 / (2 / r - v**2 / mu) ** 3 / mu)
    core = 2 * np.pi * np.sqrt(softening**3 / mu)
    if softening == 1.0:
        assert max(kepler, core) < period < kepler + core
    else:
        assert period == pytest.approx(max(kepler, core), rel=1e-3)
    unbound = pairs._replace(speed_squared=jnp.array([4.0]))
    assert period_of(unbound, softening)[0] == np.inf


def test_a_spread_of_softening_is_one_of_sizes_and_moves_systems_alike():
    tables = plummer_batch(2, 3, 8)
    plan = replace(PLAN, span=0.2, gravity=Gravity(0.1), features=FeatureSpec("encounters"))
    spread = new_pool(replace(plan, softening_spread=16.0), tables)
    np.testing.assert_allclose(spread.span, 0.2 * np.array([1, 4, 16]) ** 1.5)
    for i, softening in ((1, 0.025), (2, 0.00625)):
        alone = new_pool(replace(plan, gravity=Gravity(softening)), tables[i : i + 1])
        np.testing.assert_allclose(spread.work[i], alone.work[0], rtol=1e-6)


def new_pool(plan, tables):
    return plan.init(tables, jax.random.PRNGKey(0)).pool


def test_a_resumed_run_is_bit_identical(tmp_path):
    whole = run(PLAN, new_state(), 4)
    first = run(PLAN, new_state(), 2)
    checkpoints.write(tmp_path / "1", first.state, TABLES, config={}, metrics={}, about={})()
    again = checkpoints.restore(checkpoints.load(tmp_path), new_state(seed=5))
    second = run(PLAN, again, 4)
    assert (whole.epochs, second.epochs) == (4, 4)
    for x, y in zip(leaves_of(whole.state), leaves_of(second.state), strict=True):
        assert np.array_equal(x, y)
    assert {**whole.metrics, "epoch_time": 0} == {**second.metrics, "epoch_time": 0}


@pytest.mark.parametrize("most", [1, 2])
def test_calls_may_end_within_an_epoch_and_a_run_go_on_from_there(most, tmp_path, monkeypatch):
    whole = run(PLAN, new_state(), 3)
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", most)  # iterations; 3 an epoch
    calls = []
    first = run(
        PLAN,
        new_state(),
        3,
        on_call=lambda state, metrics: calls.append(int(state.progress.iteration)),
        interrupted=lambda: len(calls) == 2,
    )
    assert first.stopped == "interrupted" and calls[0] == 1
    checkpoints.write(tmp_path / "0.1", first.state, TABLES, config={}, metrics={}, about={})()
    again = checkpoints.restore(checkpoints.load(tmp_path), new_state(seed=5))
    second = run(PLAN, again, 3)
    for x, y in zip(leaves_of(whole.state), leaves_of(second.state), strict=True):
        assert np.array_equal(x, y)
    assert {**whole.metrics, "epoch_time": 0} == {**second.metrics, "epoch_time": 0}


def test_a_window_that_goes_wrong_does_not_move_the_network():
    state = new_state()
    tables = state.pool.tables.at[0].set(jnp.nan)
    bad = state.replace(pool=type(state.pool)(tables, state.pool.span, state.pool.work))
    result = run(PLAN, bad, 2)
    assert result.metrics["skipped"] > 0 and result.stopped == ""
    assert all(np.all(np.isfinite(x)) for x in leaves_of(result.state.variables))


def test_training_stops_when_nothing_is_finite():
    state = new_state()
    pool = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.pool)
    before = leaves_of(state.variables)
    result = run(PLAN, state.replace(pool=pool), 9)
    assert (result.stopped, result.epochs) == ("not finite", 1)
    for x, y in zip(before, leaves_of(result.state.variables), strict=True):
        assert np.array_equal(x, y)


def test_the_callbacks_are_told_what_happens(monkeypatch):
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 3)  # iterations: an epoch
    monkeypatch.setattr(Windows, "first_budget", 3)
    epochs, pauses = [], []

    def on_pause(state, metrics):
        pauses.append(metrics["epoch"])
        return state

    result = run(
        PLAN,
        new_state(),
        4,
        pause_after=lambda epoch: epoch == 1,
        on_epoch=lambda metrics: epochs.append(metrics["epoch"]),
        on_pause=on_pause,
        interrupted=lambda: len(epochs) == 3,
    )
    assert (epochs, pauses) == ([0, 1, 2], [1])
    assert (result.stopped, result.epochs, int(result.state.epoch)) == ("interrupted", 3, 3)


def test_imitation_compares_dt_along_the_path_of_the_teacher():
    particles = from_table(kepler_pair(0.5), GRAVITY.acceleration, jnp.float64)
    arguments = (GRAVITY, particles, jnp.asarray(3.0), 128)
    off = imitation_loss(free_fall(0.12), free_fall(0.04), *arguments)
    np.testing.assert_allclose(off, np.log(3) ** 2, rtol=1e-12)
    dt = np.diff(record(free_fall(0.04), GRAVITY, particles, Limits(time=3.0))[1].time)[:-1]
    off = imitation_loss(fixed(0.01), free_fall(0.04), *arguments)
    np.testing.assert_allclose(off, np.mean(np.log(dt / 0.01) ** 2), rtol=0.05)


def test_imitation_comes_first():
    plan = replace(PLAN, imitation=1, features=FeatureSpec("basic"), network=StepNetwork((8,)))
    state = first_state(plan, TABLES, SPANS, jax.random.PRNGKey(0))
    metrics = run(plan, state, 1).metrics
    assert metrics["relative_work"] == 1.0 and metrics["loss"] > 0


def test_a_window_in_other_units_is_the_same_to_a_network_free_of_scale():
    state = new_state()
    plain = draw_windows(PLAN, state.pool, jax.random.PRNGKey(4))
    other = draw_windows(replace(PLAN, unit_spread=5.0), state.pool, jax.random.PRNGKey(4))
    mass, times = other.table[:, 0, 0] / plain.table[:, 0, 0], other.time / plain.time
    assert np.all((mass > 0.2) & (mass < 5)) and np.ptp(mass) > 0.1 and np.ptp(times) > 0.1
    params = state.variables["params"]
    np.testing.assert_allclose(
        one_by_one(params, other)[0], one_by_one(params, plain)[0], rtol=1e-9
    )


def turned(table, angle=0.7):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([table[:, :1], table[:, 1:3] @ turn.T, table[:, 3:] @ turn.T], axis=1)


def test_loss_and_gradient_of_a_window_see_neither_frame_nor_direction_nor_number():
    state = new_state()
    draw = jax.tree.map(np.array, draw_windows(PLAN, state.pool, jax.random.PRNGKey(4)))
    table = kepler_pair(0.4, mass_ratio=0.5, phase=np.pi)
    tables = [table, turned(table), table + np.array([0, 3.0, -2.0, 0.4, 0.1]), table[::-1]]
    same = jax.tree.map(lambda x: np.repeat(x[:1], 4, axis=0), draw)._replace(
        table=np.stack(tables)
    )
    losses, gradients = one_by_one(state.variables["params"], same)
    np.testing.assert_allclose(losses, np.repeat(losses[:1], 4), rtol=1e-8)
    for leaf in jax.tree.leaves(gradients):
        expected = np.broadcast_to(leaf[:1], leaf.shape)
        np.testing.assert_allclose(leaf, expected, atol=1e-7 * np.max(np.abs(leaf)))
    # Another system has another loss: the network does look.
    assert abs(one_by_one(state.variables["params"], draw)[0][1] / losses[0] - 1) > 1e-4


def test_an_iteration_steps_along_the_mean_of_the_gradients_of_each_window_alone():
    plan = replace(PLAN, optimizer=optax.sgd(1.0))
    state = new_state()
    params = state.variables["params"]
    state = state.replace(optimizer_state=plan.optimizer.init(params))
    # Far from free fall some gradients are longer than what a window may have, and are cut to it.
    pool = replace(state.pool, tables=state.pool.tables.at[0].set(jnp.nan))
    state = state.replace(pool=pool)
    draws = draw_windows(plan, pool, jax.random.fold_in(state.key, 0))
    losses, gradients = one_by_one(params, draws)
    rows = np.concatenate([x.reshape(4, -1) for x in jax.tree.leaves(gradients)], axis=1)
    good, norms = np.isfinite(losses), np.linalg.norm(rows, axis=1)
    cut = np.where(good[:, None], rows * np.minimum(1, 2.0 / norms)[:, None], 0.0)
    end, left, _ = jax.jit(iterate, static_argnums=0)(plan, state, np.int32(1))
    moved = [
        np.ravel(before - after)
        for before, after in zip(leaves_of(params), leaves_of(end.variables["params"]), strict=True)
    ]
    assert int(left) == 0 and good.sum() > 0
    np.testing.assert_array_equal(end.progress.good[0], good)
    np.testing.assert_allclose(
        np.concatenate(moved), cut.sum(axis=0) / 4, rtol=1e-7, atol=1e-9 * np.abs(cut).max()
    )


@pytest.mark.slow
def test_training_needs_less_work_than_free_fall():
    """Some 30 s: by then the stepper needs 0.9 of the steps of the free-fall rule."""
    plan = Windows(
        StepNetwork((16,), dropout=0.0, positive=False),
        PLAN.features,
        GRAVITY,
        optax.adam(5e-3),
        batch=16,
        steps=256,
    )
    state = first_state(plan, TABLES, SPANS, jax.random.PRNGKey(0))
    assert run(plan, state, 20).metrics["relative_work"] < 0.9
