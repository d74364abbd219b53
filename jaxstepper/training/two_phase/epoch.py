"""The metrics of an epoch of two-phase training, and the start of the next."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.progress import new_progress
from jaxstepper.training.two_phase.state import TrainState


class EpochMetrics(NamedTuple):
    """The metrics of an epoch; every field is `[]`, or `[E]` for E epochs.

    Those up to `max_retrain_rel_dE` are of phase 1: retrain iterations, energy errors and dt of
    accepted steps, loss and error of failed attempts. The rest are of phase 2's last batch.
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


def next_epoch(plan: Plan, state: TrainState) -> TrainState:
    """The state at the start of the next epoch, in which retired systems wait."""
    progress = new_progress(plan, state.systems)
    retired = ~(state.systems.particles.time < state.end_time)
    return state.replace(
        epoch=state.epoch + 1,
        converged=state.converged + state.progress.replay_converged,
        progress=progress.replace(waiting=retired),
    )
