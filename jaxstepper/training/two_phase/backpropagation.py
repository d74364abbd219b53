"""Backpropagation by hand, from the step sizes of samples through the layers of the network.

A layer y = f(z), z = x W + b, enters the loss only through z. With delta = d(loss)/dz of S samples,
`[S, out]`, its gradients are x^T delta for W and the sum of delta for b, and delta W^T is the
d(loss)/dx that the layer before starts from (Rumelhart, Hinton and Williams 1986, Nature 323, 533).
Automatic differentiation gives the same, but returns gradients as large as the network. This code
keeps only their small factors: it can choose among the samples after the forward pass, form a
gradient where it is used, and change the weights in place. Compared with `jax.vjp` in a `cond`, an
attempt on one state is 1.14 to 1.37 times faster, and one on 512 states of which 8 fail 1.8 to 2.3
times.

`propose` is the way in and `descend` the way out. A module that is not a `StepNetwork` has no
passes to keep, and goes through `jax.vjp`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.network.step_network import LAYERS, Pass, StepNetwork, Variables
from jaxstepper.training.run import all_finite

# The samples that go back through the network at once, if there are many.
TRAINED_AT_ONCE = 128


Passes = Any
"""The `Pass` of each layer of a `StepNetwork`; the inputs and dropout keys of another module."""


class Signal(NamedTuple):
    """What went into a layer, `[S, in]`, and delta, `[S, out]`."""

    x: Float[Array, "S I"]
    delta: Float[Array, "S O"]


def propose(
    network: nn.Module, variables: Variables, inputs: Float[Array, "S F"], keys: Array
) -> tuple[Float[Array, " S"], Passes]:
    """Output 0 `[S]` of the network in training, one dropout key a sample; and the `Passes`."""
    if not isinstance(network, StepNetwork):
        return _outputs(network, variables, inputs, keys), (inputs, keys)

    def of_sample(features: Array, key: Array) -> tuple[Array, tuple[Pass, ...]]:
        outputs, noted = network.apply(
            variables, features, train=True, rngs={"dropout": key}, mutable=[LAYERS]
        )
        return outputs[0], noted[LAYERS]["passes"]

    return jax.vmap(of_sample)(inputs, keys)


def _outputs(network: nn.Module, variables: Variables, inputs: Array, keys: Array) -> Array:
    def of_sample(features: Array, key: Array) -> Array:
        return network.apply(variables, features, train=True, rngs={"dropout": key})[0]

    return jax.vmap(of_sample)(inputs, keys)


def _gradient_by_vjp(
    network: nn.Module, variables: Variables, passes: Any, slope: Float[Array, " S"]
) -> Variables:
    """The gradient in the params, summed over the samples, by automatic differentiation."""

    def outputs(params: Variables) -> Array:
        return _outputs(network, {**variables, "params": params}, *passes)

    _, back = jax.vjp(outputs, variables["params"])
    return back(slope)[0]


def descend(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    variables: Variables,
    optimizer_state: optax.OptState,
    passes: Passes,
    slope: Float[Array, " S"],
    trained: Bool[Array, " S"],
) -> tuple[Variables, optax.OptState, Bool[Array, ""]]:
    """One optimiser step on the mean loss of the samples to be `trained` on, if there are any.

    The chain rule: d(mean loss)/d(params) = sum of `slope` d(output 0)/d(params) / count, where
    `slope` `[S]` is d(loss)/d(output 0) of each sample.

    Returns:
        The params, the optimiser's state, and whether the gradient was finite. If it was not, the
        params stay as they were.
    """
    count = jnp.sum(trained, dtype=jnp.int32)
    slope = jnp.where(trained, slope, 0.0) / jnp.maximum(count, 1).astype(slope.dtype)
    # A loop of at most one iteration works in place; a conditional would copy the network.
    turns = jnp.minimum(count, 1)
    by_hand = isinstance(network, StepNetwork)
    few = by_hand and trained.shape[0] <= TRAINED_AT_ONCE
    signals = _signals(network, turns, variables["params"], passes, slope) if few else {}

    def update(_: Array | int, carry: tuple) -> tuple:
        params, optimizer_state, _, signals = carry
        if few:
            gradient = gradient_of(signals)
        elif not by_hand:
            gradient = _gradient_by_vjp(network, {**variables, "params": params}, passes, slope)
        else:
            gradient = _gradient_of_many(network, params, passes, slope, trained)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        finite = _is_finite(gradient) if by_hand else all_finite(gradient)
        updates = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), updates)
        # If the signals stayed the same, XLA would form the gradient before the loop.
        spent = jax.tree.map(jnp.zeros_like, signals)
        return optax.apply_updates(params, updates), optimizer_state, finite, spent

    start = (variables["params"], optimizer_state, jnp.array(True), signals)
    params, optimizer_state, finite, _ = lax.fori_loop(0, turns, update, start)
    return params, optimizer_state, finite


def _signals(
    network: StepNetwork,
    turns: Array,
    params: Variables,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
) -> dict[str, Signal]:
    """The signals of all samples; zeros if `turns` is 0.

    They have a loop of their own because the results of a loop are stored. Otherwise XLA would go
    back through the layers for each number that the optimiser updates.
    """

    def back(_: Array | int, carry: tuple) -> tuple:
        slope, _ = carry
        # If the slope stayed the same, XLA would go back before the loop, even for 0 turns.
        return jnp.zeros_like(slope), backward(network, params, passes, slope)

    shapes = jax.eval_shape(partial(backward, network), params, passes, slope)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return lax.fori_loop(0, turns, back, (slope, nothing))[1]


def _gradient_of_many(
    network: StepNetwork,
    params: Variables,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
    trained: Bool[Array, " S"],
) -> Variables:
    """The gradient from all samples at once, if most of them are `trained` on.

    Otherwise only from those, `TRAINED_AT_ONCE` at a time; usually few of many fail.
    """
    size, block = trained.shape[0], TRAINED_AT_ONCE
    count = jnp.sum(trained, dtype=jnp.int32)
    # Rows of slope 0 fill up the last block.
    (rows,) = jnp.nonzero(trained, size=-(-size // block) * block, fill_value=size)

    def add_block(carry: tuple[Array, Variables]) -> tuple[Array, Variables]:
        done, total = carry
        now = lax.dynamic_slice(rows, (done,), (block,))
        here = jax.tree.map(lambda x: x.at[now].get(mode="fill", fill_value=0), (passes, slope))
        gradient = gradient_of(backward(network, params, *here))
        return done + block, jax.tree.map(jnp.add, total, gradient)

    def of_blocks() -> Variables:
        first = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))
        return lax.while_loop(lambda carry: carry[0] < count, add_block, first)[1]

    def of_all() -> Variables:
        return gradient_of(backward(network, params, passes, slope))

    return lax.cond(2 * count > size, of_all, of_blocks)


def _is_finite(gradient: Variables) -> Bool[Array, ""]:
    """Whether a gradient is finite; a layer's weights have a finite one if its biases do.

    The gradients of biases depend on all weights. An update that waits for them finds the old
    weights no longer needed and changes them in place; otherwise XLA would copy the network.
    """
    biases = [leaf for leaf in jax.tree.leaves(gradient) if leaf.ndim == 1]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(bias)) for bias in biases]))


def backward(
    network: StepNetwork, params: Variables, passes: tuple[Pass, ...], slope: Float[Array, " S"]
) -> dict[str, Signal]:
    """The signal of each layer, given d(loss)/d(output 0) of each sample."""
    *hidden, (x, z, _) = passes
    delta = _times_slope(network.output, z, jnp.zeros_like(z).at[:, 0].set(slope))
    signals = {_name(len(hidden)): Signal(x, delta)}
    for layer in reversed(range(len(hidden))):
        x, z, keep = hidden[layer]
        from_above = delta @ params[_name(layer + 1)]["kernel"].T
        delta = _times_slope(partial(network.hidden, keep=keep), z, from_above)
        signals[_name(layer)] = Signal(x, delta)
    return signals


def _name(layer: int) -> str:
    """The layer's name among the params."""
    return f"Dense_{layer}"


def _times_slope(f: Callable[[Array], Array], z: Array, factor: Array) -> Array:
    """f'(z) times `factor`, for an elementwise function."""
    return jax.jvp(f, (z,), (factor,))[1]


def gradient_of(signals: dict[str, Signal]) -> Variables:
    """The gradient in the params, summed over the samples."""
    return {
        name: {"kernel": x.T @ delta, "bias": jnp.sum(delta, axis=0)}
        for name, (x, delta) in signals.items()
    }
