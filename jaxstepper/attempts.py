"""One attempt on a batch of states: propose dt, try the steps, train once on those that fail."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.devices import split, whole
from jaxstepper.losses import Trial, try_steps
from jaxstepper.networks import Variables
from jaxstepper.train_state import NOT_FINITE, RUNNING, Plan, Sample, TrainState

# Keeps dt above zero in training.
DT_FLOOR = 1e-12
# Most samples in one backward pass.
TRAINED_AT_ONCE = 128


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
    the mean loss of those that do. A dt or a gradient that is not finite sets the status, and the
    network stays as it was.
    """
    state, dropout_key = state.split_key()
    keys = jax.random.split(dropout_key, present.shape[0])
    sample, keys = split(plan.mesh, (sample, keys))
    dt = propose_dt(plan, state.variables, sample.inputs, keys)
    trial = try_steps(plan.gate, plan.gravity, sample.particles, sample.energy, dt)
    safe, failed = present & trial.safe, present & ~trial.safe
    trained = failed | (present & trial.wasteful)

    def train(_: Array | int, carry: tuple) -> tuple:
        params, optimizer_state, _ = carry
        variables = {**state.variables, "params": params}
        gradient = _loss_gradient(plan, variables, sample.inputs, keys, trial.slope, trained)
        updates, optimizer_state = plan.optimizer.update(gradient, optimizer_state, params)
        finite = _is_finite(gradient)
        updates = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), updates)
        return optax.apply_updates(params, updates), optimizer_state, finite

    # A loop of one turn or none works in place, where a conditional would copy the network.
    turns = jnp.any(trained).astype(jnp.int32)
    untrained = (state.variables["params"], state.optimizer_state, jnp.array(True))
    params, optimizer_state, finite = lax.fori_loop(0, turns, train, untrained)
    finite &= jnp.all(jnp.isfinite(dt) | ~present)
    status = jnp.where((state.status == RUNNING) & ~finite, NOT_FINITE, state.status)
    state = state.replace(
        variables={**state.variables, "params": params},
        optimizer_state=optimizer_state,
        status=status.astype(jnp.int32),
    )
    return state, whole(plan.mesh, Attempt(dt, trial, safe, failed, trained))


def _loss_gradient(
    plan: Plan,
    variables: Variables,
    inputs: Float[Array, "S F"],
    keys: Array,
    slope: Float[Array, " S"],
    trained: Bool[Array, " S"],
) -> Variables:
    """Gradient in the params of the mean loss over the samples that are `trained` on.

    The chain rule: d(mean loss)/d(params) = sum of (d loss/d dt) (d dt/d params) / count. Mostly
    few samples of many fail, so the network runs again, on those alone, `TRAINED_AT_ONCE` at once;
    or on all, if that is most of them.
    """
    size = trained.shape[0]
    block = min(size, TRAINED_AT_ONCE)
    count = jnp.sum(trained, dtype=jnp.int32)
    weight = jnp.where(trained, slope, 0.0) / count.astype(slope.dtype)

    def of_block(rows: Array) -> Variables:
        def step_sizes(params: Variables) -> Float[Array, " R"]:
            now = {**variables, "params": params}
            return propose_dt(plan, now, inputs[rows], keys[rows])

        _, pull_back = jax.vjp(step_sizes, variables["params"])
        return pull_back(weight.at[rows].get(mode="fill", fill_value=0.0))[0]

    def of_all() -> Variables:
        return of_block(jnp.arange(size))

    if block == size:
        return of_all()
    # Past the samples that are trained on, rows of weight 0 fill the last block.
    (rows,) = jnp.nonzero(trained, size=-(-size // block) * block, fill_value=size)

    def add_block(carry: tuple[Array, Variables]) -> tuple[Array, Variables]:
        done, total = carry
        gradient = of_block(lax.dynamic_slice(rows, (done,), (block,)))
        return done + block, jax.tree.map(jnp.add, total, gradient)

    def of_blocks() -> Variables:
        nothing = jax.tree.map(jnp.zeros_like, variables["params"])
        first = (jnp.zeros((), jnp.int32), nothing)
        return lax.while_loop(lambda carry: carry[0] < count, add_block, first)[1]

    return lax.cond(2 * count > size, of_all, of_blocks)


def _is_finite(gradient: Variables) -> Bool[Array, ""]:
    """Whether a gradient is finite: that of a layer's weights is, if that of its biases is.

    The biases' depend on all weights. An update that waits for them finds that nothing else needs
    the old weights, and changes them in place, where XLA would copy the network first.
    """
    biases = [leaf for leaf in jax.tree.leaves(gradient) if leaf.ndim == 1]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(bias)) for bias in biases]))


def propose_dt(
    plan: Plan, variables: Variables, inputs: Float[Array, "S F"], keys: Array
) -> Float[Array, " S"]:
    """The steps `[S]` that the network proposes while training, each with its own dropout key."""

    def of_state(features: Float[Array, " F"], key: Array) -> Float[Array, ""]:
        outputs = plan.network.apply(variables, features, train=True, rngs={"dropout": key})
        return outputs[0] + DT_FLOOR

    return jax.vmap(of_state)(inputs, keys)
