"""Two-phase training: an epoch, a device call of several epochs, and the run."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxstepper.machine.call_budget import next_budget
from jaxstepper.machine.devices import whole
from jaxstepper.machine.processes import any_of, from_main
from jaxstepper.training.two_phase.collect import collect
from jaxstepper.training.two_phase.generalize import generalize
from jaxstepper.training.two_phase.state import (
    NOT_FINITE,
    RETIRED,
    RUNNING,
    STUCK,
    Plan,
    TrainState,
    apply_if,
    new_progress,
    place,
)

# Epochs in one device call. The program holds the epoch once, whatever this is.
EPOCHS_PER_CALL = 10
# Attempts in one device call.
FIRST_BUDGET = 50
LARGEST_BUDGET = 1_000_000
# Retrain iterations on one step between warnings.
PATIENCE = 1000


class EpochMetrics(NamedTuple):
    """What an epoch came to; every field is `[]`, or `[E]` for E epochs.

    Phase 1: steps over all systems; retrain iterations, energy errors and dt of accepted steps;
    loss and error of failed attempts. Phase 2: of its last batch.
    """

    epoch: Array
    total_steps: Array
    warmup_discarded: Array
    trajectory_length: Array
    mean_retrain_iterations: Array
    max_retrain_iterations: Array
    mean_energy_error: Array
    min_energy_error: Array
    max_energy_error: Array
    mean_dt: Array
    min_dt: Array
    max_dt: Array
    mean_retrain_loss: Array
    max_retrain_loss: Array
    mean_retrain_rel_dE: Array
    max_retrain_rel_dE: Array
    converged: Array
    iterations: Array
    mean_rel_dE: Array
    max_rel_dE: Array
    final_pass_rate: Array
    skipped: Array


def epoch_metrics(state: TrainState) -> EpochMetrics:
    """The metrics of the epoch that has just ended."""
    p = state.progress
    retrain, error, dt, replay = (
        p.retrain_iterations,
        p.accepted_error,
        p.accepted_dt,
        p.replay_error,
    )
    return EpochMetrics(
        epoch=state.epoch,
        total_steps=error.count,
        warmup_discarded=p.warmup_discarded,
        trajectory_length=jnp.sum(p.is_sample),
        mean_retrain_iterations=retrain.mean,
        max_retrain_iterations=retrain.extreme(retrain.largest),
        mean_energy_error=error.mean,
        min_energy_error=error.extreme(error.smallest),
        max_energy_error=error.extreme(error.largest),
        mean_dt=dt.mean,
        min_dt=dt.extreme(dt.smallest),
        max_dt=dt.extreme(dt.largest),
        mean_retrain_loss=p.retrain_loss.mean,
        max_retrain_loss=p.max_retrain_loss,
        mean_retrain_rel_dE=p.retrain_error.mean,
        max_retrain_rel_dE=p.max_retrain_error,
        converged=p.replay_converged,
        iterations=p.replay_iterations,
        mean_rel_dE=replay.mean,
        max_rel_dE=replay.extreme(replay.largest),
        final_pass_rate=jnp.where(p.replay_skipped, 1.0, p.replay_pass_rate),
        skipped=p.replay_skipped,
    )


def run_chunk(
    plan: Plan, state: TrainState, last_epoch: Array, budget: Array
) -> tuple[TrainState, Array, EpochMetrics, Array]:
    """Up to `EPOCHS_PER_CALL` epochs on the device, in one call of bounded length.

    The call ends early, perhaps in the middle of an epoch, when `last_epoch` epochs are complete,
    when `budget` attempts are used up, or when the status is a failure. What training comes
    to does not depend on where calls end.

    Returns:
        The state; what is left of the budget; metrics `[E]` of E = `EPOCHS_PER_CALL` rows; and
        which rows `[E]` are epochs that ended in this call.
    """

    def epoch(carry: tuple[TrainState, Array], _: None) -> tuple[Any, tuple[EpochMetrics, Array]]:
        state, budget = carry
        # An epoch that must not begin gets no budget, so that both phases leave at once.
        allowed = jnp.where(state.epoch < last_epoch, budget, 0)
        state, left = collect(plan, state, allowed)
        state, left = generalize(plan, state, left)
        budget = budget - (allowed - left)
        ended = state.progress.replay_done
        metrics = epoch_metrics(state)
        state = apply_if(ended, partial(_next_epoch, plan), state)
        return (state, budget), (metrics, ended)

    carry, (metrics, ended) = lax.scan(epoch, (state, budget), length=EPOCHS_PER_CALL)
    state, left = carry
    bad = (state.status == RUNNING) & ~_is_finite(state)
    state = state.replace(status=jnp.where(bad, NOT_FINITE, state.status).astype(jnp.int32))
    return place(plan, state), *whole(plan.mesh, (left, metrics, ended))


train_chunk = jax.jit(run_chunk, static_argnames="plan", donate_argnames="state")
"""`run_chunk`, compiled; the state given is donated."""


def _next_epoch(plan: Plan, state: TrainState) -> TrainState:
    progress = new_progress(plan, state.systems)
    retired = ~(state.systems.particles.time < state.end_time)
    return state.replace(
        epoch=state.epoch + 1,
        converged=state.converged + state.progress.replay_converged,
        progress=progress.replace(waiting=retired),
    )


def _is_finite(state: TrainState) -> Bool[Array, ""]:
    """Whether network, optimiser and systems hold finite numbers only."""
    leaves = jax.tree.leaves((state.variables, state.optimizer_state, state.systems))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


class TrainingResult(NamedTuple):
    """What a training run came to.

    Attributes:
        epochs: completed in all, those before a resumption included.
        total_time: seconds of this call of `run_two_phase_training`.
        convergence_rate: share of those epochs whose phase 2 converged; 0 of none.
        metrics: of the last epoch, as plain numbers; empty if none has ended.
        state: after it.
        stopped: why it ended before the last epoch: "", "interrupted", "retired", "stuck", or
            "not finite".
    """

    epochs: int
    total_time: float
    convergence_rate: float
    metrics: dict[str, Any]
    state: TrainState
    stopped: str


STOPPED = {STUCK: "stuck", NOT_FINITE: "not finite", RETIRED: "retired"}


def run_two_phase_training(
    plan: Plan,
    state: TrainState,
    epochs: int,
    *,
    metrics: dict[str, Any] | None = None,
    pause_after: Callable[[int], bool] = lambda epoch: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_pause: Callable[[TrainState, dict[str, Any]], TrainState] = lambda state, metrics: state,
    on_call: Callable[[TrainState, dict[str, Any]], None] = lambda state, metrics: None,
    interrupted: Callable[[], bool] = lambda: False,
    look: Callable[[TrainState, int], int] | None = None,
) -> TrainingResult:
    """Trains until `epochs` epochs are complete, in device calls of bounded length.

    Args:
        plan: what is trained.
        state: where it stands; donated.
        epochs: in all, counted from the start of the run.
        metrics: of the last epoch before this call, where a run is resumed.
        pause_after: whether training halts after an epoch (counted from 0) for `on_pause`. It does
            so after the last one in any case.
        on_epoch: told the metrics of every epoch, in order.
        on_pause: given the state between epochs and the last metrics, to save it or to change its
            systems; returns the state to go on with.
        on_call: told the state and the last metrics after every device call, to save it.
        interrupted: asked before every device call whether to leave.
        look: shown the state before every device call, and the attempts that the last one used up;
            returns how many the next may use up at most. Calls then end with their epochs.

    Returns:
        The result. A run that leaves early returns the state it got to, in the middle of an epoch.
    """
    began = last_end = time.perf_counter()
    budget, used, warned, stopped = FIRST_BUDGET, 0, 0, ""
    metrics = {} if metrics is None else metrics
    done = int(state.epoch)
    while done < epochs and not stopped:
        if any_of(interrupted()):
            stopped = "interrupted"
            break
        last = done + 1
        while last < epochs and not pause_after(last - 1):
            last += 1
        allowed = budget if look is None else min(budget, look(state, used))
        end = last if look is None else done + 1
        call_began = time.perf_counter()
        state, left, rows, ended = train_chunk(plan, state, np.int32(end), np.int32(allowed))
        rows, ended, left = jax.device_get((rows, ended, left))
        used = allowed - int(left)
        done, status = int(state.epoch), int(state.status)
        now = time.perf_counter()
        count = int(np.sum(ended))
        for row in range(EPOCHS_PER_CALL):
            if ended[row]:
                metrics = plain_metrics(rows, row, (now - last_end) / count)
                on_epoch(metrics)
        last_end, warned = (now, 0) if count else (last_end, warned)
        seconds = now - call_began
        budget = from_main(next_budget(budget, used, seconds, FIRST_BUDGET, LARGEST_BUDGET))
        warned = _warn_of_retraining(state, warned)
        stopped = STOPPED.get(status, "")
        if stopped == "not finite":
            break
        if count and done == last:
            state = on_pause(state, metrics)
        on_call(state, metrics)
    rate = int(state.converged) / done if done else 0.0
    return TrainingResult(done, time.perf_counter() - began, rate, metrics, state, stopped)


def plain_metrics(rows: EpochMetrics, row: int, seconds: float) -> dict[str, Any]:
    """An epoch of the metrics `[E]` of a device call, as plain numbers, and how long it took."""
    metrics = {name: values[row].item() for name, values in rows._asdict().items()}
    metrics["epoch_time"] = seconds
    metrics["acceptance_rate"] = 1 / (1 + metrics["mean_retrain_iterations"])
    return metrics


def _warn_of_retraining(state: TrainState, warned: int) -> int:
    """Warns once per `PATIENCE` retrain iterations on one step; returns how many it has told of."""
    worst = int(jnp.max(state.progress.failures))
    if worst // PATIENCE <= warned // PATIENCE:
        return worst
    error = float(state.progress.last_error[jnp.argmax(state.progress.failures)])
    warnings.warn(
        f"epoch {int(state.epoch)}, step {int(state.progress.step)}: {worst} retrain iterations "
        f"on one step; its relative energy error is {error:.2e}, accepted are errors below the "
        "energy threshold",
        RuntimeWarning,
        stacklevel=2,
    )
    return worst
