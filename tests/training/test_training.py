"""The two phases against golden traces, and what a run promises."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small_runs import (
    PLAN,
    PLENTY,
    SEED,
    TABLES,
    assert_identical,
    differs,
    saved,
    started,
    train_in_calls,
)

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.physics.integrators import leapfrog
from jaxstepper.training.run import train_chunk
from jaxstepper.training.status import NOT_FINITE, STUCK
from jaxstepper.training.two_phase.attempt import attempt
from jaxstepper.training.two_phase.calibrate import calibrate
from jaxstepper.training.two_phase.collect import collect
from jaxstepper.training.two_phase.epoch import epoch_metrics
from jaxstepper.training.two_phase.gate import Gate, try_step, try_steps
from jaxstepper.training.two_phase.generalize import generalize
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.two_phase.run import run_two_phase_training
from jaxstepper.training.two_phase.samples import start_systems

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "two_phase.npz")
run_phase_1 = jax.jit(collect, static_argnums=0)
run_phase_2 = jax.jit(generalize, static_argnums=0)


def golden_case(case):
    prefix = f"case{case}/"
    g = {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}
    settings = json.loads(str(g["settings"]))
    plan = TwoPhase(
        StepNetwork(tuple(settings["hidden_dims"]), settings["activation"], settings["dropout"]),
        FeatureSpec(settings["feature_type"], settings["history_len"]),
        Gravity(),
        optax.chain(
            optax.add_decayed_weights(settings["weight_decay"]), optax.adam(settings["lr"])
        ),
        gate=Gate(
            num_steps=settings["n_steps"],
            threshold=settings["energy_threshold"],
            lower=settings["E_lower"],
            upper=settings["E_upper"],
            monotone=False,
        ),
        steps_per_epoch=settings["steps_per_epoch"],
        max_retrain_steps=0,
        replay_steps=200,
    )
    state = started(plan, g["table"][None], 0, {"params": params_of(g, ""), "constants": {}})
    return plan, g, state


def params_of(g, prefix):
    return {
        f"Dense_{k}": {
            "kernel": jnp.asarray(
                g[f"{prefix}state_dict{'_after' * bool(prefix)}/{name}.weight"].T
            ),
            "bias": jnp.asarray(g[f"{prefix}state_dict{'_after' * bool(prefix)}/{name}.bias"]),
        }
        for k, name in enumerate(("model.0", "model.2", "model.4"))
    }


def assert_same_params(actual, expected):
    """To 1e-6 of the largest entry of each array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.max(np.abs(b)))


def assert_golden_metrics(state, g, phase):
    metrics = epoch_metrics(state)._asdict()
    recorded = {name: g[f"{phase}/{name}"] for name in metrics if f"{phase}/{name}" in g}
    assert len(recorded) >= 5
    for name, expected in recorded.items():
        if expected.dtype.kind in "ib" and expected < 100:
            assert metrics[name] == expected, name
        else:
            np.testing.assert_allclose(metrics[name], expected, rtol=1e-6, err_msg=name)


def assert_golden_path(path, g, rtol):
    np.testing.assert_allclose(path.dt, g["phase1/dt"], rtol=rtol)
    for name in ("position", "velocity"):
        recorded = g[f"phase1/{name}"]
        largest = np.max(np.abs(recorded))
        np.testing.assert_allclose(getattr(path, name), recorded, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("case", [0, 2])
def test_golden_two_phase_trace(case):
    plan, g, state = golden_case(case)
    state, _ = run_phase_1(plan, state, PLENTY)
    assert_golden_path(state.progress.trajectory.particles, g, 1e-6)
    assert_golden_metrics(state, g, "phase1")
    assert_same_params(state.variables["params"], params_of(g, "phase1/"))
    if "phase2/converged" in g:
        state, _ = run_phase_2(plan, state, PLENTY)
        assert_golden_metrics(state, g, "phase2")
        assert_same_params(state.variables["params"], params_of(g, "phase2/"))


@pytest.mark.slow  # the traces above stand for it
def test_golden_path_of_thousands_of_retrain_iterations():
    """That many steps amplify rounding: 1e-15 in a weight changes the counts by thousands.

    But a step is taken where dt crosses the threshold, and that is no matter of counts. Now and
    then, though, dt leaps to where a step much larger passes; so the median of a few runs, whose
    weights differ by rounding, is what must agree.
    """
    ends = []
    for change in (-2e-15, -1e-15, 0.0, 1e-15, 2e-15):
        plan, g, state = golden_case(1)
        params = jax.tree.map(lambda w, change=change: w * (1 + change), state.variables["params"])
        state = state.replace(variables={**state.variables, "params": params})
        state, _ = run_phase_1(plan, state, PLENTY)
        loss = epoch_metrics(state).max_retrain_loss
        ends.append((state.progress.trajectory.particles, loss))
    path, loss = jax.tree.map(lambda *runs: jnp.median(jnp.stack(runs), axis=0), *ends)
    assert_golden_path(path, g, 1e-3)
    np.testing.assert_allclose(loss, g["phase1/max_retrain_loss"], rtol=1e-4)


def test_the_outcome_does_not_depend_on_where_device_calls_end():
    before = train_chunk._cache_size()
    expected, expected_metrics = train_in_calls(PLAN, started(PLAN, TABLES, SEED), 4, PLENTY)
    expected = saved(expected)
    # There must be something to cut: retrain iterations, and replay iterations.
    assert max(m.max_retrain_iterations for m in expected_metrics) > 3
    assert max(m.iterations for m in expected_metrics) > 1
    for budget, epochs_per_call in ((1, PLENTY), (3, PLENTY), (7, 2), (PLENTY, 1)):
        state = started(PLAN, TABLES, SEED)
        state, metrics = train_in_calls(PLAN, state, 4, budget, epochs_per_call)
        assert_identical(state, expected)
        assert_identical(metrics, expected_metrics)
    # All those calls, from a fresh and from a donated state, are one program.
    assert train_chunk._cache_size() <= before + 1


def test_a_seed_decides_everything():
    states = [train_in_calls(PLAN, started(PLAN, TABLES, seed), 2, PLENTY)[0] for seed in (5, 5, 6)]
    assert_identical(states[0], states[1])
    assert differs(states[0].variables, states[2].variables)
    assert differs(states[0].systems, states[2].systems)


def test_a_run_tells_what_it_did():
    expected, metrics = train_in_calls(PLAN, started(PLAN, TABLES, SEED), 4, PLENTY)
    told, pauses, calls = [], [], []

    def on_pause(state, last):
        pauses.append((int(state.epoch), last["epoch"]))
        return state

    result = run_two_phase_training(
        PLAN,
        started(PLAN, TABLES, SEED),
        4,
        pause_after=lambda epoch: epoch == 1,
        on_epoch=told.append,
        on_pause=on_pause,
        on_call=lambda state, _: calls.append(int(state.epoch)),
    )
    assert (result.epochs, result.stopped) == (4, "")
    assert_identical(result.state, expected)
    assert [m["epoch"] for m in told] == [0, 1, 2, 3]
    assert result.metrics == told[-1]
    assert pauses == [(2, 1), (4, 3)]
    assert calls[-1] == 4 and 2 in calls
    assert result.convergence_rate == np.mean([m["converged"] for m in told])
    assert 0 < result.convergence_rate < 1
    assert result.total_time > 0
    for dictionary, row in zip(told, metrics, strict=True):
        for name, value in row._asdict().items():
            assert dictionary[name] == value.item(), name
        assert dictionary["acceptance_rate"] == 1 / (1 + dictionary["mean_retrain_iterations"])


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(monkeypatch):
    expected, _ = train_in_calls(PLAN, started(PLAN, TABLES, SEED), 2, PLENTY)
    monkeypatch.setattr("jaxstepper.training.two_phase.objective.TwoPhase.first_budget", 2)
    answers = iter([False, True])
    result = run_two_phase_training(
        PLAN, started(PLAN, TABLES, SEED), 2, interrupted=lambda: next(answers)
    )
    assert (result.epochs, result.stopped) == (0, "interrupted")
    assert result.metrics == {} and result.convergence_rate == 0
    result = run_two_phase_training(PLAN, result.state, 2)
    assert (result.epochs, result.stopped) == (2, "")
    assert_identical(result.state, expected)


def test_a_step_that_never_passes_warns_every_1000_times_and_ends_stuck_at_the_cap(monkeypatch):
    plan = replace(
        PLAN,
        network=StepNetwork((2,), "tanh", 0.0),
        features=FeatureSpec(),
        optimizer=optax.sgd(1e-12),
        gate=Gate(num_steps=1, threshold=0.0),
        max_retrain_steps=2100,
    )
    state = started(plan, TABLES[:1], 0)
    before = saved(state.systems)
    monkeypatch.setattr("jaxstepper.training.two_phase.objective.TwoPhase.first_budget", 400)
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 400)
    with pytest.warns(RuntimeWarning, match="retrain iterations on one step") as caught:
        result = run_two_phase_training(plan, state, 5)
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "1200 retrain iterations" in told[0] and "2000 retrain iterations" in told[1]
    assert (result.epochs, result.stopped, result.metrics) == (0, "stuck", {})
    assert result.convergence_rate == 0
    assert result.state.status == STUCK
    np.testing.assert_array_equal(result.state.progress.failures, [2101])
    assert_identical(result.state.systems, before)


@pytest.mark.parametrize("steps", [1, 3])
def test_only_the_first_steps_of_the_whole_run_are_warm_up(steps):
    """Every step passes at once, so that epochs differ by the warm-up alone."""
    length, epochs = 2, 4
    plan = replace(
        PLAN,
        network=StepNetwork((2,), "tanh", 0.0),
        features=FeatureSpec("delta_mag", length),
        gate=Gate(num_steps=1, threshold=1e300),
        steps_per_epoch=steps,
    )
    state, metrics = train_in_calls(plan, started(plan, TABLES[:1], 0), epochs, PLENTY)
    for epoch, m in enumerate(metrics):
        taken = np.arange(epoch * steps, (epoch + 1) * steps)
        samples = np.sum(taken >= length)
        assert m.total_steps == steps
        assert m.warmup_discarded == steps - samples
        assert m.trajectory_length == samples
        assert m.skipped == (samples < plan.min_replay_size)
        assert m.converged and m.final_pass_rate == 1
        assert m.iterations == (0 if m.skipped else 1)
    np.testing.assert_array_equal(state.accepted, [epochs * steps])


@pytest.mark.parametrize("retrain_batch", [1, 2])
def test_every_system_takes_every_step_once(retrain_batch):
    tables = np.stack([random_table(seed, 2, 2, 1.0, 1.0, 1.0) for seed in range(3)])
    plan = replace(
        PLAN, steps_per_epoch=3, retrain_batch=retrain_batch, features=FeatureSpec("basic")
    )
    start = started(plan, tables, 1)
    end, left = run_phase_1(plan, start, PLENTY)
    p = end.progress
    assert p.step == 3 and p.accepted_error.count == 9
    np.testing.assert_array_equal(end.accepted, [3, 3, 3])
    assert p.accepted_error.largest < plan.gate.threshold
    attempts = PLENTY - int(left)
    failures = int(p.retrain_iterations.total)
    assert failures > 0
    if retrain_batch == 1:
        assert attempts == 9 + failures

    @jax.jit
    @jax.vmap
    def redo(particles, dt):
        for _ in range(plan.gate.num_steps):
            particles = leapfrog(particles, dt, plan.gravity.acceleration)
        return particles

    path = jax.tree.map(lambda x: x.reshape(3, 3, *x.shape[1:]), p.trajectory.particles)
    state = start.systems.particles
    for step in range(3):
        state = redo(state, path.dt[step])
        np.testing.assert_allclose(path.position[step], state.position, rtol=0, atol=1e-13)
        np.testing.assert_allclose(path.time[step], state.time, rtol=1e-14)
    np.testing.assert_array_equal(end.systems.particles.position, path.position[-1])


@pytest.mark.parametrize(("at_once", "passing"), [(128, 1), (1, 1), (1, 3), (3, 3)])
def test_an_attempt_trains_on_the_mean_loss_of_the_systems_that_fail(at_once, passing, monkeypatch):
    """With plain gradient steps, the step of many is the mean of the steps of each alone.

    That is so in one pass, where most of more systems than pass at once fail, and where few do.
    """
    monkeypatch.setattr("jaxstepper.training.two_phase.backpropagation.TRAINED_AT_ONCE", at_once)
    plan = replace(
        PLAN,
        network=StepNetwork((8,), "tanh", 0.0),
        features=FeatureSpec(),
        optimizer=optax.sgd(1e-6),
    )
    # The last systems are so wide that their steps pass.
    sizes = (1.0, 0.8, *[100.0] * passing)
    tables = np.stack([TABLES[0] * [1, size, size, 1, 1] for size in sizes])
    start = started(plan, tables, SEED)
    run = jax.jit(partial(attempt, plan))

    def update(present):
        end, outcome = run(start, start.systems, jnp.asarray(present))
        change = [a - b for a, b in zip(saved(end.variables), saved(start.variables), strict=True)]
        return change, outcome.failed

    number = np.arange(len(sizes))
    together, failed = update(number >= 0)
    np.testing.assert_array_equal(failed, number < 2)
    first, second = (update(number == system)[0] for system in (0, 1))
    for whole, *parts in zip(together, first, second, strict=True):
        expected = np.mean(parts, axis=0)
        np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))
    assert all(np.any(change) for change in first) and differs(first, second)
    nothing, _ = update(number == 2)
    assert not any(np.any(change) for change in nothing)


def test_a_gradient_that_is_not_finite_leaves_the_network_as_it_was(monkeypatch):
    def steep(*arguments):
        trial = try_steps(*arguments)
        return trial._replace(slope=jnp.full_like(trial.slope, jnp.inf))

    monkeypatch.setattr("jaxstepper.training.two_phase.attempt.try_steps", steep)
    start = started(PLAN, TABLES, SEED)
    end, outcome = jax.jit(partial(attempt, PLAN))(start, start.systems, jnp.array([True, True]))
    assert np.any(outcome.failed) and np.all(np.isfinite(outcome.dt))
    assert int(end.status) == NOT_FINITE
    assert_identical(end.variables, saved(start.variables))


def test_calibration_starts_every_seed_in_the_band():
    plan = replace(PLAN, network=StepNetwork((32, 32), "tanh", 0.0), features=FeatureSpec())

    @jax.jit
    def first_errors(table, seed):
        systems, _ = start_systems(plan, table[None])
        key = jax.random.key(seed)
        fresh = init_variables(plan.network, key, plan.features.size)

        def error(variables):
            dt = plan.network.apply(variables, systems.inputs)[0, 0]
            one = jax.tree.map(lambda x: x[0], systems)
            return try_step(plan.gate, plan.gravity, one.particles, dt).error

        return error(fresh), error(calibrate(plan, fresh, systems)[0])

    tables = [random_table(seed, 3, 2, 1.0, 0.1, 1.0) for seed in range(20)]
    before, after = zip(*(first_errors(t, seed) for seed, t in enumerate(tables)), strict=True)
    assert not any(plan.gate.lower < error < plan.gate.upper for error in before)
    assert all(plan.gate.lower < error < plan.gate.upper for error in after)


def test_a_network_that_is_not_finite_ends_the_run_where_it_was():
    state = started(PLAN, TABLES, SEED)
    before = saved(state.systems)
    params = state.variables["params"]
    kernel = np.array(params["Dense_0"]["kernel"])
    kernel[0, 0] = np.nan
    layer = {**params["Dense_0"], "kernel": jnp.asarray(kernel)}
    variables = {**state.variables, "params": {**params, "Dense_0": layer}}
    result = run_two_phase_training(PLAN, state.replace(variables=variables), 3)
    assert (result.epochs, result.stopped) == (0, "not finite")
    assert_identical(result.state.systems, before)
