"""Phase 2: train on minibatches of the epoch's accepted states until a whole batch passes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxstepper.machine.devices import whole
from jaxstepper.training.status import RUNNING
from jaxstepper.training.two_phase.attempt import attempt
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.progress import empty_tally
from jaxstepper.training.two_phase.samples import Sample
from jaxstepper.training.two_phase.state import TrainState


def generalize(plan: Plan, state: TrainState, budget: Array) -> tuple[TrainState, Array]:
    """Runs phase 2 until a batch passes or `replay_steps` iterations are over.

    With fewer than `min_replay_size` samples it is skipped, and counts as converged. It ends
    earlier when `budget` iterations are used up; another call continues. Returns the state and the
    rest of the budget.
    """
    progress = state.progress
    ready = (progress.step == plan.steps_per_epoch) & (state.status == RUNNING)
    too_few = jnp.sum(progress.is_sample) < plan.min_replay_size
    skipped = ready & ~progress.replay_done & too_few
    state = state.replace(
        progress=progress.replace(
            replay_done=progress.replay_done | skipped,
            replay_converged=progress.replay_converged | skipped,
            replay_skipped=progress.replay_skipped | skipped,
        )
    )

    def working(carry: tuple[TrainState, Array]) -> Bool[Array, ""]:
        state, budget = carry
        return ready & ~state.progress.replay_done & (budget > 0) & (state.status == RUNNING)

    def iterate(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, budget = carry
        return _iterate(plan, state), budget - 1

    return lax.while_loop(working, iterate, (state, budget))


def _iterate(plan: Plan, state: TrainState) -> TrainState:
    """Tries a minibatch; trains once on the samples that fail."""
    state, batch_key = state.split_key()
    sample, present = _draw(plan, state, batch_key)
    state, outcome = attempt(plan, state, sample, present)
    failed = outcome.trained
    converged = ~jnp.any(failed)
    iterations = state.progress.replay_iterations + 1
    passed_share = 1 - jnp.sum(failed) / jnp.maximum(jnp.sum(present), 1)
    progress = state.progress.replace(
        replay_iterations=iterations,
        replay_done=converged | (iterations >= plan.replay_steps),
        replay_converged=converged,
        replay_error=empty_tally(outcome.dt.dtype).add(outcome.trial.error, present),
        replay_pass_rate=passed_share.astype(outcome.dt.dtype),
    )
    return state.replace(progress=progress)


def _draw(plan: Plan, state: TrainState, key: Array) -> tuple[Sample, Bool[Array, " S"]]:
    """Samples of the trajectory, drawn without replacement, and which of them exist."""
    progress = state.progress
    length = progress.is_sample.shape[0]
    if length <= plan.replay_batch_size:
        return progress.trajectory, progress.is_sample
    # The smallest of uniform numbers mark a random subset; places without a sample come last.
    order = jnp.where(progress.is_sample, jax.random.uniform(key, (length,)), jnp.inf)
    _, chosen = lax.top_k(-order, plan.replay_batch_size)
    batch = (progress.trajectory, progress.is_sample)
    return whole(plan.mesh, jax.tree.map(lambda x: x[chosen], batch))
