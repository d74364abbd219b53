"""From the step sizes of samples back through the layers of the network, by hand.

A layer y = f(z), z = x W + b, takes part in a loss only through z. With delta = d(loss)/dz of S
samples, `[S, out]`, its gradients are x^T delta for W and the sum of delta for b; and d(loss)/dx,
where the layer before begins, is delta W^T (Rumelhart, Hinton and Williams 1986, Nature 323, 533).
Automatic differentiation comes to the same, but hands out gradients as large as the network only.
Here the caller holds what they are made of, which is small beside it: it may choose among the
samples after the pass forwards, change the weights in place, and form a gradient where it is used.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.network.step_network import LAYERS, Pass, StepNetwork, Variables


class Signal(NamedTuple):
    """What went into a layer, `[S, in]`, and delta, `[S, out]`."""

    x: Float[Array, "S I"]
    delta: Float[Array, "S O"]


def forward(
    network: StepNetwork, variables: Variables, inputs: Float[Array, "S F"], keys: Array
) -> tuple[Float[Array, " S"], tuple[Pass, ...]]:
    """Output 0 of the network in training, each sample with its own dropout key.

    Returns:
        The outputs `[S]`, and the passes through each layer.
    """

    def of_sample(features: Array, key: Array) -> tuple[Array, tuple[Pass, ...]]:
        outputs, noted = network.apply(
            variables, features, train=True, rngs={"dropout": key}, mutable=[LAYERS]
        )
        return outputs[0], noted[LAYERS]["passes"]

    return jax.vmap(of_sample)(inputs, keys)


def backward(
    network: StepNetwork,
    params: Variables,
    passes: tuple[Pass, ...],
    slope: Float[Array, " S"],
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
    """f'(z) times `factor`, of a function of each number by itself."""
    return jax.jvp(f, (z,), (factor,))[1]


def gradient_of(signals: dict[str, Signal]) -> Variables:
    """The gradient in the params, summed over the samples."""
    return {
        name: {"kernel": x.T @ delta, "bias": jnp.sum(delta, axis=0)}
        for name, (x, delta) in signals.items()
    }
