"""Phase 1: every step of every system must conserve energy, or the network trains until it does.

The unit of work is an attempt: predict dt for the systems that still have to take the current step,
try it, let those that pass take it, and train once on those that fail. A system that has taken the
step waits for the others; then all go on together. A wasteful step is safe, so it is taken; a
two-sided gate also trains on it once. At most `Plan.retrain_batch` systems are tried at once, so
that an attempt costs only as much as the systems still at work.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxstepper.machine.devices import whole
from jaxstepper.network.step_network import Variables
from jaxstepper.training.run import apply_if
from jaxstepper.training.status import RETIRED, RUNNING, STUCK
from jaxstepper.training.two_phase.attempt import Attempt, attempt
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.progress import EpochProgress
from jaxstepper.training.two_phase.samples import make_sample, remember
from jaxstepper.training.two_phase.state import TrainState

# After so many failed attempts on a step, each further one lowers every log(dt) by so much.
STUBBORN = 20
INSISTENCE = 0.05


def collect(plan: Plan, state: TrainState, budget: Array) -> tuple[TrainState, Array]:
    """Runs phase 1 until each system has taken `steps_per_epoch` steps.

    It ends earlier when `budget` attempts are used up or the status is a failure. Another call
    continues as if nothing had happened. Returns the state and the rest of the budget.
    """

    def working(carry: tuple[TrainState, Array]) -> Bool[Array, ""]:
        state, budget = carry
        unfinished = state.progress.step < plan.steps_per_epoch
        return unfinished & (budget > 0) & (state.status == RUNNING)

    def work(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, budget = carry
        return _attempt(plan, state), budget - 1

    return lax.while_loop(working, work, (state, budget))


@partial(jax.jit, static_argnames="plan")
def preview(plan: Plan, state: TrainState) -> Attempt:
    """The outcome of the next attempt of phase 1; the state stays as it is."""
    return _try(plan, state)[2]


def _try(plan: Plan, state: TrainState) -> tuple[TrainState, Array, Attempt]:
    """Tries the current step once for some systems, the `chosen`, that have not taken it yet."""
    count = state.accepted.shape[0]
    size = min(count, plan.retrain_batch)
    # Empty slots hold `count`: writes there are dropped and reads ignored.
    (chosen,) = jnp.nonzero(~state.progress.waiting, size=size, fill_value=count)
    sample = jax.tree.map(lambda x: x.at[chosen].get(mode="clip"), state.systems)
    sample = whole(plan.mesh, sample)
    state, outcome = attempt(plan, state, sample, present=chosen < count)
    return state, chosen, outcome


def _attempt(plan: Plan, state: TrainState) -> TrainState:
    """One attempt; all systems go on once the last has taken the step."""
    state, chosen, outcome = _try(plan, state)
    progress = _record(state.progress, chosen, outcome)
    state = state.replace(progress=progress, status=_status(plan, state.status, progress))
    if plan.gate.monotone:
        state = state.replace(variables=_insist(plan, state.variables, progress))
    everyone = jnp.all(state.progress.waiting)
    return apply_if(everyone, partial(_advance, plan), state)


def _record(progress: EpochProgress, chosen: Array, outcome: Attempt) -> EpochProgress:
    """The progress with the outcome of an attempt by the systems `chosen`."""
    dt, trial, passed, failed, _ = outcome
    count = progress.waiting.shape[0]
    took = jnp.where(passed, chosen, count)

    def put(where: Array, values: Array, into: Array) -> Array:
        return into.at[where].set(values, mode="drop")

    def so_far(totals: Array, values: Array | int) -> Array:
        return totals.at[chosen].get(mode="clip") + jnp.where(failed, values, 0)

    def highest(so_far: Array, values: Array) -> Array:
        return jnp.maximum(so_far, jnp.max(values, where=failed, initial=0.0))

    failures = so_far(progress.failures, 1)
    loss = so_far(progress.failure_loss, trial.loss)
    error = so_far(progress.failure_error, trial.error)
    tries = jnp.maximum(failures, 1)
    return progress.replace(
        reached=jax.tree.map(partial(put, took), trial.particles, progress.reached),
        waiting=put(took, passed, progress.waiting),
        failures=put(chosen, failures, progress.failures),
        failure_loss=put(chosen, loss, progress.failure_loss),
        failure_error=put(chosen, error, progress.failure_error),
        last_error=put(chosen, trial.error, progress.last_error),
        retrain_iterations=progress.retrain_iterations.add(failures, passed),
        accepted_error=progress.accepted_error.add(trial.error, passed),
        accepted_dt=progress.accepted_dt.add(dt, passed),
        retrain_loss=progress.retrain_loss.add(loss / tries, passed),
        retrain_error=progress.retrain_error.add(error / tries, passed),
        max_retrain_loss=highest(progress.max_retrain_loss, trial.loss),
        max_retrain_error=highest(progress.max_retrain_error, trial.error),
    )


def _insist(plan: Plan, variables: Variables, progress: EpochProgress) -> Variables:
    """Lowers every dt a little while some step has failed many times.

    A small network with a small learning rate may need thousands of optimiser steps to follow a
    close encounter, or stand still where the weight decay balances the loss. But a dt that keeps
    falling by the same ratio eventually conserves energy, whatever the network.
    """
    stubborn = jnp.any((progress.failures >= STUBBORN) & ~progress.waiting)
    return plan.network.shifted(variables, jnp.where(stubborn, -INSISTENCE, 0.0))


def _status(plan: Plan, status: Array, progress: EpochProgress) -> Array:
    if plan.max_retrain_steps == 0:
        return status
    stuck = jnp.any(progress.failures > plan.max_retrain_steps)
    return jnp.where((status == RUNNING) & stuck, STUCK, status).astype(jnp.int32)


def _advance(plan: Plan, state: TrainState) -> TrainState:
    """Moves all systems on to the states they reached, and adds those to the trajectory."""
    progress = state.progress
    moved = state.systems.particles.time < state.end_time
    history = remember(plan, state.history, state.systems.particles)
    systems = make_sample(plan, progress.reached, history)
    accepted = state.accepted + moved.astype(jnp.int32)
    warm = accepted > plan.features.history_len

    def append(trajectory: Array, new: Array) -> Array:
        start = progress.step * new.shape[0]
        return jax.lax.dynamic_update_slice_in_dim(trajectory, new, start, axis=0)

    retired = ~(systems.particles.time < state.end_time)
    progress = progress.replace(
        step=progress.step + 1,
        waiting=retired,
        failures=jnp.zeros_like(progress.failures),
        failure_loss=jnp.zeros_like(progress.failure_loss),
        failure_error=jnp.zeros_like(progress.failure_error),
        trajectory=jax.tree.map(append, progress.trajectory, systems),
        is_sample=append(progress.is_sample, moved & warm),
        warmup_discarded=progress.warmup_discarded + jnp.sum(moved & ~warm, dtype=jnp.int32),
    )
    status = jnp.where(jnp.all(retired), RETIRED, state.status).astype(jnp.int32)
    return state.replace(
        systems=systems, history=history, accepted=accepted, progress=progress, status=status
    )
