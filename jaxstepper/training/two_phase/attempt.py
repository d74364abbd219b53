"""One attempt on a batch of states: propose dt, try the steps, train once on those that fail."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.machine.devices import split, whole
from jaxstepper.network.step_network import Pass, Variables
from jaxstepper.training.two_phase.backpropagation import Signal, backward, forward, gradient_of
from jaxstepper.training.two_phase.gate import Trial, try_steps
from jaxstepper.training.two_phase.state import NOT_FINITE, RUNNING, Plan, Sample, TrainState

# Keeps dt above zero in training.
DT_FLOOR = 1e-12
# Samples of many that go back through the network at once.
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
    outputs, passes = forward(plan.network, state.variables, sample.inputs, keys)
    dt = outputs + DT_FLOOR
    trial = try_steps(plan.gate, plan.gravity, sample.particles, sample.energy, dt)
    safe, failed = present & trial.safe, present & ~trial.safe
    trained = failed | (present & trial.wasteful)
    state, finite = _train(plan, state, passes, trial.slope, trained)
    finite &= jnp.all(jnp.isfinite(dt) | ~present)
    status = jnp.where((state.status == RUNNING) & ~finite, NOT_FINITE, state.status)
    state = state.replace(status=status.astype(jnp.int32))
    return state, whole(plan.mesh, Attempt(dt, trial, safe, failed, trained))


def _train(
    plan: Plan,
    state: TrainState,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
    trained: Bool[Array, " S"],
) -> tuple[TrainState, Bool[Array, ""]]:
    """One optimiser step on the mean loss of the samples that are `trained` on, if any is.

    The chain rule: d(mean loss)/d(params) = sum of (d loss/d dt) (d dt/d params) / count.

    Returns:
        The state, and whether the gradient was finite.
    """
    count = jnp.sum(trained, dtype=jnp.int32)
    slope = jnp.where(trained, slope, 0.0) / jnp.maximum(count, 1).astype(slope.dtype)
    # A loop of one turn or none works in place, where a conditional would copy the network.
    turns = jnp.minimum(count, 1)
    few = trained.shape[0] <= TRAINED_AT_ONCE
    signals = _signals(plan, turns, state.variables["params"], passes, slope) if few else {}

    def update(_: Array | int, carry: tuple) -> tuple:
        params, optimizer_state, _, signals = carry
        if few:
            gradient = gradient_of(signals)
        else:
            gradient = _gradient_of_many(plan, params, passes, slope, trained)
        updates, optimizer_state = plan.optimizer.update(gradient, optimizer_state, params)
        finite = _is_finite(gradient)
        updates = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), updates)
        # From signals that stay as they are, XLA would form the gradient before the loop.
        spent = jax.tree.map(jnp.zeros_like, signals)
        return optax.apply_updates(params, updates), optimizer_state, finite, spent

    start = (state.variables["params"], state.optimizer_state, jnp.array(True), signals)
    params, optimizer_state, finite, _ = lax.fori_loop(0, turns, update, start)
    variables = {**state.variables, "params": params}
    return state.replace(variables=variables, optimizer_state=optimizer_state), finite


def _signals(
    plan: Plan,
    turns: Array,
    params: Variables,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
) -> dict[str, Signal]:
    """The signals of all samples; zeros if there is no turn.

    In a loop of their own, for what leaves a loop is in memory. Otherwise XLA would go back through
    the layers again for each number that the optimiser updates.
    """

    def back(_: Array | int, carry: tuple) -> tuple:
        slope, _ = carry
        # With a slope that stays as it is, XLA would go back before the loop, and for no turn too.
        return jnp.zeros_like(slope), backward(plan.network, params, passes, slope)

    shapes = jax.eval_shape(partial(backward, plan.network), params, passes, slope)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, turns, back, (slope, nothing))[1]


def _gradient_of_many(
    plan: Plan,
    params: Variables,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
    trained: Bool[Array, " S"],
) -> Variables:
    """The gradient, from all samples at once if most of them are `trained` on.

    Otherwise from those alone, `TRAINED_AT_ONCE` at a time; mostly, few of many fail.
    """
    size, block = trained.shape[0], TRAINED_AT_ONCE
    count = jnp.sum(trained, dtype=jnp.int32)
    # Past the samples that are trained on, rows of slope 0 fill the last block.
    (rows,) = jnp.nonzero(trained, size=-(-size // block) * block, fill_value=size)

    def add_block(carry: tuple[Array, Variables]) -> tuple[Array, Variables]:
        done, total = carry
        now = lax.dynamic_slice(rows, (done,), (block,))
        here = jax.tree.map(lambda x: x.at[now].get(mode="fill", fill_value=0), (passes, slope))
        gradient = gradient_of(backward(plan.network, params, *here))
        return done + block, jax.tree.map(jnp.add, total, gradient)

    def of_blocks() -> Variables:
        first = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))
        return lax.while_loop(lambda carry: carry[0] < count, add_block, first)[1]

    def of_all() -> Variables:
        return gradient_of(backward(plan.network, params, passes, slope))

    return lax.cond(2 * count > size, of_all, of_blocks)


def _is_finite(gradient: Variables) -> Bool[Array, ""]:
    """Whether a gradient is finite: that of a layer's weights is, if that of its biases is.

    The biases' depend on all weights. An update that waits for them finds that nothing else needs
    the old weights, and changes them in place, where XLA would copy the network first.
    """
    biases = [leaf for leaf in jax.tree.leaves(gradient) if leaf.ndim == 1]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(bias)) for bias in biases]))
