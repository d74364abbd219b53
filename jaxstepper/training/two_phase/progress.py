"""The progress of an epoch of two-phase training, and the tallies it keeps."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.particles import Particles
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.samples import Sample


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """Count, sum, smallest and largest of the numbers seen so far."""

    count: Int[Array, ""]
    total: Float[Array, ""]
    smallest: Float[Array, ""]
    largest: Float[Array, ""]

    def add(self, values: Array, where: Bool[Array, " B"]) -> "Tally":
        """With those `values` `[B]` that `where` selects."""
        values = values.astype(self.total.dtype)
        return Tally(
            self.count + jnp.sum(where, dtype=jnp.int32),
            self.total + jnp.sum(values, where=where),
            jnp.minimum(self.smallest, jnp.min(values, where=where, initial=jnp.inf)),
            jnp.maximum(self.largest, jnp.max(values, where=where, initial=-jnp.inf)),
        )

    @property
    def mean(self) -> Float[Array, ""]:
        """The mean; 0 of nothing."""
        return self.total / jnp.maximum(self.count, 1)

    def extreme(self, value: Array) -> Array:
        """`value` (the smallest or largest); 0 of nothing."""
        return jnp.where(self.count > 0, value, 0.0)


def empty_tally(dtype: Any) -> Tally:
    """A tally of nothing."""
    infinity = jnp.asarray(jnp.inf, dtype)
    return Tally(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), infinity, -infinity)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EpochProgress:
    """The progress of an epoch: a device call may end, and a run resume, at any attempt.

    Attributes:
        step: `[]`, steps of phase 1 that every system has taken.
        reached: `[B]` states after the current step, for the systems that have taken it.
        waiting: `[B]`, which systems those are.
        failures: `[B]`, failed attempts on the current step.
        failure_loss: `[B]`, sum of the losses of those attempts.
        failure_error: `[B]`, sum of their energy errors.
        last_error: `[B]`, error of the last attempt on the current step.
        trajectory: `[T]` samples of this epoch, T = steps_per_epoch * B.
        is_sample: `[T]`, which of them exist and are not warm-up.
        warmup_discarded: `[]`, accepted steps that are no samples: their window is not full.
        retrain_iterations: tally over accepted steps.
        accepted_error: tally over accepted steps.
        accepted_dt: tally over accepted steps.
        retrain_loss: tally over accepted steps of the mean loss of their failed attempts.
        retrain_error: tally over accepted steps of the mean energy error of those attempts.
        max_retrain_loss: `[]`, largest loss of any failed attempt.
        max_retrain_error: `[]`, largest energy error of any failed attempt.
        replay_iterations: `[]`, iterations of phase 2.
        replay_done: `[]`, whether phase 2 has ended.
        replay_converged: `[]`, whether all samples of its last batch passed.
        replay_skipped: `[]`, whether there were too few samples for it.
        replay_error: tally over its last batch.
        replay_pass_rate: `[]`, share of its last batch that passed.
    """

    step: Int[Array, ""]
    reached: Particles
    waiting: Bool[Array, " B"]
    failures: Int[Array, " B"]
    failure_loss: Float[Array, " B"]
    failure_error: Float[Array, " B"]
    last_error: Float[Array, " B"]
    trajectory: Sample
    is_sample: Bool[Array, " T"]
    warmup_discarded: Int[Array, ""]
    retrain_iterations: Tally
    accepted_error: Tally
    accepted_dt: Tally
    retrain_loss: Tally
    retrain_error: Tally
    max_retrain_loss: Float[Array, ""]
    max_retrain_error: Float[Array, ""]
    replay_iterations: Int[Array, ""]
    replay_done: Bool[Array, ""]
    replay_converged: Bool[Array, ""]
    replay_skipped: Bool[Array, ""]
    replay_error: Tally
    replay_pass_rate: Float[Array, ""]

    def replace(self, **changes: Any) -> "EpochProgress":
        """A copy with some fields changed."""
        return replace(self, **changes)


def new_progress(plan: Plan, systems: Sample) -> EpochProgress:
    """The progress of an epoch that has not begun."""
    count, dtype = systems.energy.shape[0], systems.energy.dtype
    length = plan.steps_per_epoch * count

    def room(x: Array) -> Array:
        return jnp.zeros((length, *x.shape[1:]), x.dtype)

    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    return EpochProgress(
        step=zero,
        reached=systems.particles,
        waiting=jnp.zeros((count,), bool),
        failures=jnp.zeros((count,), jnp.int32),
        failure_loss=jnp.zeros((count,), dtype),
        failure_error=jnp.zeros((count,), dtype),
        last_error=jnp.zeros((count,), dtype),
        trajectory=jax.tree.map(room, systems),
        is_sample=jnp.zeros((length,), bool),
        warmup_discarded=zero,
        retrain_iterations=empty_tally(dtype),
        accepted_error=empty_tally(dtype),
        accepted_dt=empty_tally(dtype),
        retrain_loss=empty_tally(dtype),
        retrain_error=empty_tally(dtype),
        max_retrain_loss=jnp.zeros((), dtype),
        max_retrain_error=jnp.zeros((), dtype),
        replay_iterations=zero,
        replay_done=no,
        replay_converged=no,
        replay_skipped=no,
        replay_error=empty_tally(dtype),
        replay_pass_rate=jnp.zeros((), dtype),
    )
