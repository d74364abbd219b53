"""The network that maps features to a step size; it knows nothing of physics."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxstepper.errors import require

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
}
OUTPUTS = 2

LAYERS = "layers"
"""The Flax collection whose "passes" are the `Pass` of each layer, for callers that want them."""

Variables = dict
"""{"params": trained, "constants": not trained (Fourier frequencies)}, nested dicts of arrays."""


class Pass(NamedTuple):
    """The values in a layer, whose dense part is z = x W + b.

    Attributes:
        x: `[..., in]`.
        z: `[..., out]`.
        keep: `[..., out]`, which units dropout keeps; None without dropout.
    """

    x: Float[Array, "*B I"]
    z: Float[Array, "*B O"]
    keep: Bool[Array, "*B O"] | None


def _uniform_bias(fan_in: int) -> Callable[..., Array]:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)); the shape of a bias does not tell its fan-in."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class StepNetwork(nn.Module):
    """Fully connected layers with two outputs, of which output 0 is the step size or its logarithm.

    Attributes:
        hidden_dims: widths of the hidden layers.
        activation: a key of `ACTIVATIONS`, after each hidden layer.
        dropout: probability that a hidden unit is dropped in training.
        fourier_scale: if > 0, inputs become sin and cos of 2 pi x B^T, with B ~ Normal(0, scale).
        fourier_dim: size of those Fourier features, even.
        dtype: of parameters and arithmetic.
        positive: whether there is a softplus on the outputs.
    """

    hidden_dims: tuple[int, ...] = (200, 1000, 1000, 200)
    activation: str = "tanh"
    dropout: float = 0.2
    fourier_scale: float = -1.0
    fourier_dim: int = 256
    dtype: DTypeLike = jnp.float64
    positive: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B F"], train: bool = False) -> Float[Array, "*B 2"]:
        """Outputs `[..., 2]`; `train` drops units and needs an rng named "dropout"."""
        if self.fourier_scale > 0:
            x = self._fourier_features(x)
        for width in self.hidden_dims:
            z = self._linear(width, x)
            keep = self._draw_kept(z.shape) if train and self.dropout > 0 else None
            self.sow(LAYERS, "passes", Pass(x, z, keep))
            x = self.hidden(z, keep)
        z = self._linear(OUTPUTS, x)
        self.sow(LAYERS, "passes", Pass(x, z, None))
        return self.output(z)

    @nn.nowrap
    def hidden(
        self, z: Float[Array, "*B W"], keep: Bool[Array, "*B W"] | None
    ) -> Float[Array, "*B W"]:
        """The output of a hidden layer: its activation, with inverted dropout of units."""
        y = ACTIVATIONS[self.activation](z)
        return y if keep is None else jnp.where(keep, y / (1 - self.dropout), 0.0)

    @nn.nowrap
    def output(self, z: Float[Array, "*B 2"]) -> Float[Array, "*B 2"]:
        """The output of the last layer."""
        return nn.softplus(z) if self.positive else z

    @nn.nowrap
    def shifted(self, variables: Variables, shift: Float[Array, ""]) -> Variables:
        """The variables with `shift` added to the bias of output 0."""
        params = variables["params"]
        last = f"Dense_{len(params) - 1}"
        bias = params[last]["bias"].at[0].add(shift)
        return {**variables, "params": {**params, last: {**params[last], "bias": bias}}}

    def _linear(self, width: int, x: Array) -> Array:
        """A dense layer with torch's initial weights and biases, U(+-1/sqrt(fan_in))."""
        layer = nn.Dense(
            width,
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            bias_init=_uniform_bias(x.shape[-1]),
            param_dtype=self.dtype,
            dtype=self.dtype,
        )
        return layer(x)

    def _draw_kept(self, shape: tuple[int, ...]) -> Bool[Array, "*B W"]:
        """Which units dropout keeps, by 16 random bits each.

        Draws cost as much as a small matrix product, so a long word serves several units.
        """
        word = jax.dtypes.canonicalize_dtype(jnp.uint64)
        units = word.itemsize // 2
        key = self.make_rng("dropout")
        words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // units)), word)
        draws = lax.bitcast_convert_type(words, jnp.uint16).reshape(*shape[:-1], -1)
        return draws[..., : shape[-1]] < np.uint32(round((1 - self.dropout) * 2**16))

    def _fourier_features(self, x: Array) -> Array:
        shape = (self.fourier_dim // 2, x.shape[-1])

        def draw() -> Array:
            normal = jax.random.normal(self.make_rng("params"), shape, self.dtype)
            return self.fourier_scale * normal

        frequencies = self.variable("constants", "B", draw)
        phase = 2 * jnp.pi * (x @ frequencies.value.T)
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class OwnNetwork(nn.Module):
    """A user's module in place of a `StepNetwork`.

    Attributes:
        inner: maps inputs `[..., F]` to outputs `[..., 1 or more]`, of which output 0 counts. If
            its call takes `train`, that says when dropout is active.
        dtype: of parameters and arithmetic.
        positive: whether there is a softplus on the output.
    """

    inner: nn.Module
    dtype: DTypeLike = jnp.float64
    positive: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*B F"], train: bool = False) -> Float[Array, "*B 1"]:
        """Output `[..., 1]`: output 0 of the module, and a bias for `shifted` to set."""
        takes_train = "train" in inspect.signature(self.inner.__call__).parameters
        y = self.inner(x, train=train) if takes_train else self.inner(x)
        bias = self.param("bias", nn.initializers.zeros, (1,), self.dtype)
        y = jnp.asarray(y[..., :1], self.dtype) + bias
        return nn.softplus(y) if self.positive else y

    @nn.nowrap
    def shifted(self, variables: Variables, shift: Float[Array, ""]) -> Variables:
        """The variables with `shift` added to the bias."""
        params = variables["params"]
        return {**variables, "params": {**params, "bias": params["bias"] + shift}}


def as_step_network(module: nn.Module, dtype: DTypeLike, positive: bool) -> nn.Module:
    """A user's module as the network of a rule."""
    return module if isinstance(module, StepNetwork) else OwnNetwork(module, dtype, positive)


def init_variables(network: nn.Module, key: Array, input_size: int) -> Variables:
    """Fresh parameters (and Fourier frequencies) for inputs of length `input_size`.

    Raises:
        UserError: the module has other variables, such as running means.
    """
    variables = network.init(key, jnp.zeros((input_size,), network.dtype))
    others = set(variables) - {"params", "constants", LAYERS}
    require(not others, f"the network keeps {', '.join(others)}; only params can be trained here")
    params = jax.tree.map(lambda x: jnp.asarray(x, network.dtype), variables["params"])
    return {"params": params, "constants": variables.get("constants", {})}
