"""Two-phase training: an epoch, a device call of several epochs, and the run."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxstepper.collect import collect
from jaxstepper.generalize import generalize
from jaxstepper.train_state import RUNNING, Plan, TrainState, new_progress

# Epochs in one device call. The program holds the epoch once, whatever this is.
EPOCHS_PER_CALL = 10
# A device call aims to take this long, so that it can be interrupted, watched and saved.
SECONDS_PER_CALL = 2.0
FIRST_BUDGET = 50


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
    retrain, error, dt, replay = p.retrain_iterations, p.accepted_error, p.accepted_dt, p.replay_error
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


@partial(jax.jit, static_argnames="plan", donate_argnames="state")
def train_chunk(
    plan: Plan, state: TrainState, last_epoch: Array, budget: Array
) -> tuple[TrainState, EpochMetrics, Array]:
    """Up to `EPOCHS_PER_CALL` epochs on the device, in one call of bounded length.

    The call ends early, perhaps in the middle of an epoch, when `last_epoch` epochs are complete,
    when `budget` network updates are used up, or when the status is a failure. What training comes
    to does not depend on where calls end. The state given is donated.

    Returns:
        The state; metrics `[E]` of E = `EPOCHS_PER_CALL` rows; and which rows `[E]` are epochs that
        ended in this call.
    """

    def epoch(carry: tuple[TrainState, Array], _: None) -> tuple:
        state, budget = carry
        # An epoch that must not begin gets no budget, so that both phases leave at once.
        budget = jnp.where(state.epoch < last_epoch, budget, 0)
        state, budget = collect(plan, state, budget)
        state, budget = generalize(plan, state, budget)
        ended = state.progress.replay_done
        metrics = epoch_metrics(state)
        state = lax.cond(ended, partial(_next_epoch, plan), lambda s: s, state)
        return (state, budget), (metrics, ended)

    carry, (metrics, ended) = lax.scan(epoch, (state, budget), length=EPOCHS_PER_CALL)
    return carry[0], metrics, ended


def _next_epoch(plan: Plan, state: TrainState) -> TrainState:
    progress = new_progress(plan, state.systems)
    retired = ~(state.systems.particles.time < state.end_time)
    return state.replace(epoch=state.epoch + 1, progress=progress.replace(waiting=retired))
