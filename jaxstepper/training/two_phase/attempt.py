"""One attempt on a batch of states: propose dt, try the steps, train once on those that fail."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxstepper.machine.devices import split, whole
from jaxstepper.training.status import NOT_FINITE, RUNNING
from jaxstepper.training.two_phase.backpropagation import descend, propose
from jaxstepper.training.two_phase.gate import Trial, try_steps
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.samples import Sample
from jaxstepper.training.two_phase.state import TrainState

# Keeps dt above zero in training.
DT_FLOOR = 1e-12


class Attempt(NamedTuple):
    """The outcome of an attempt.

    Attributes:
        dt: `[S]`, the proposed steps.
        trial: `[S]`, where they led.
        safe: `[S]`, which conserve energy.
        failed: `[S]`, which do not; a slot without a state is neither safe nor failed.
        trained: `[S]`, which the network has trained on: the failed and the wasteful ones.
    """

    dt: Float[Array, " S"]
    trial: Trial
    safe: Bool[Array, " S"]
    failed: Bool[Array, " S"]
    trained: Bool[Array, " S"]


def attempt(
    plan: Plan, state: TrainState, sample: Sample, present: Bool[Array, " S"]
) -> tuple[TrainState, Attempt]:
    """Tries a step from every state of `sample` where `present`.

    If any fail (or are wasteful, with a two-sided gate), the network takes one optimiser step on
    their mean loss. A dt or a gradient that is not finite sets the status and leaves the network
    unchanged.
    """
    state, dropout_key = state.split_key()
    keys = jax.random.split(dropout_key, present.shape[0])
    sample, keys = split(plan.mesh, (sample, keys))
    outputs, passes = propose(plan.network, state.variables, sample.inputs, keys)
    dt = outputs + DT_FLOOR
    trial = try_steps(plan.gate, plan.gravity, sample.particles, dt)
    safe, failed = present & trial.safe, present & ~trial.safe
    trained = failed | (present & trial.wasteful)
    params, optimizer_state, finite = descend(
        plan.network,
        plan.optimizer,
        state.variables,
        state.optimizer_state,
        passes,
        trial.slope,
        trained,
    )
    finite &= jnp.all(jnp.isfinite(dt) | ~present)
    status = jnp.where((state.status == RUNNING) & ~finite, NOT_FINITE, state.status)
    state = state.replace(
        variables={**state.variables, "params": params},
        optimizer_state=optimizer_state,
        status=status.astype(jnp.int32),
    )
    return state, whole(plan.mesh, Attempt(dt, trial, safe, failed, trained))
