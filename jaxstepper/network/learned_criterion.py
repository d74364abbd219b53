"""A criterion for individual steps that is learned: Aarseth's, times a factor."""

from dataclasses import field

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxstepper.network.derivative_inputs import derivative_inputs
from jaxstepper.network.step_network import Variables
from jaxstepper.stepping.criteria import Aarseth, Criterion, Derivatives
from jaxstepper.stepping.rule import STATIC, Number

# The factor is kept to exp(+-2).
MOST_LOG_FACTOR = 2.0


class Weights(nn.Module):
    """The smallest network: a weighted sum of its inputs, 0 before it is trained.

    Attributes:
        dtype: of the weights.
        positive: must be False; the sum may have any sign.
    """

    dtype: DTypeLike = jnp.float64
    positive: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*B F"], train: bool = False) -> Float[Array, "*B 1"]:
        """The sum `[..., 1]`."""
        del train
        weights = self.param("weights", nn.initializers.zeros, x.shape[-1:], self.dtype)
        return (x @ weights)[..., None]


class LearnedCriterion(Criterion):
    """dt = Aarseth's dt exp(network), where the network sees the `derivative_inputs` of the body.

    Aarseth's criterion sees neither the speed of a body, which its energy error is proportional to,
    nor whether its force is about to change faster. A network of weights 0 leaves it as it is.

    Attributes:
        network: with one output of any sign.
        variables: its weights.
        eta: as in `Aarseth`.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    eta: Number

    def first_step(
        self,
        acceleration: Float[Array, "N D"],
        jerk: Float[Array, "N D"],
        snap: Float[Array, "N D"],
        /,
    ) -> Float[Array, " N"]:
        return Aarseth(self.eta).first_step(acceleration, jerk, snap)

    def step_size(self, derivatives: Derivatives, /) -> Float[Array, " K"]:
        of_one = Aarseth(jnp.ones_like(derivatives.speed)).step_size(derivatives)
        inputs = derivative_inputs(derivatives, of_one)
        log_factor = self.network.apply(self.variables, inputs)[..., 0]
        factor = jnp.exp(jnp.clip(log_factor, -MOST_LOG_FACTOR, MOST_LOG_FACTOR))
        return jnp.sqrt(self.eta) * of_one * factor
