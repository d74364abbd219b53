"""One attempt on a batch of states: propose dt, try the steps, train once on those that fail."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.losses import Trial, try_steps
from jaxstepper.networks import Variables
from jaxstepper.train_state import NOT_FINITE, RUNNING, Plan, Sample, TrainState

# Keeps dt above zero in training.
DT_FLOOR = 1e-12


class Attempt(NamedTuple):
    """What came of an attempt.

    Attributes:
        dt: `[S]`, the proposed steps.
        trial: `[S]`, where they led.
        safe: `[S]`, which conserve energy.
        failed: `[S]`, which do not; a slot without a state is neither.
        trained: `[S]`, which the network has trained on: those that failed, and those that waste.
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

    If any fails (or wastes, where the gate is two-sided), the network takes one optimiser step on
    the mean loss of those that do. A dt that is not finite sets the status.
    """
    state, dropout_key = state.split_key()

    def step_sizes(params: Variables) -> Float[Array, " S"]:
        return propose_dt(plan, {**state.variables, "params": params}, sample.inputs, dropout_key)

    params = state.variables["params"]
    dt, pull_back = jax.vjp(step_sizes, params)
    trial = try_steps(plan.gate, plan.gravity, sample.particles, sample.energy, dt)
    safe, failed = present & trial.safe, present & ~trial.safe
    trained = failed | (present & trial.wasteful)

    def train(params: Variables, optimizer_state: optax.OptState) -> tuple:
        # The chain rule: d(mean loss)/d(params) = sum of (d loss/d dt) (d dt/d params) / count.
        share = trained.astype(dt.dtype) / jnp.sum(trained).astype(dt.dtype)
        (gradient,) = pull_back(share * trial.slope)
        updates, optimizer_state = plan.optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state

    params, optimizer_state = lax.cond(
        jnp.any(trained), train, lambda *same: same, params, state.optimizer_state
    )
    finite = jnp.all(jnp.isfinite(dt) | ~present)
    status = jnp.where((state.status == RUNNING) & ~finite, NOT_FINITE, state.status)
    state = state.replace(
        variables={**state.variables, "params": params},
        optimizer_state=optimizer_state,
        status=status.astype(jnp.int32),
    )
    return state, Attempt(dt, trial, safe, failed, trained)


def propose_dt(
    plan: Plan, variables: Variables, inputs: Float[Array, "S F"], dropout_key: Array
) -> Float[Array, " S"]:
    """The steps `[S]` that the network proposes while training, with dropout."""
    outputs = plan.network.apply(variables, inputs, train=True, rngs={"dropout": dropout_key})
    return outputs[:, 0] + DT_FLOOR
