"""Polynomials of the shares of a pair, which cost next to nothing in the place of a network."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

# Of a `Polynomial`, in u and w together: ten numbers.
DEGREE = 3


def powers(degree: int) -> list[tuple[int, int]]:
    """The exponents (i, j) of u and w in a polynomial of this degree."""
    return [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]


# All of these but the constant, and two of s.
WEIGHTS = len(powers(DEGREE)) - 1 + 2


def polynomial(
    coefficients: Sequence[ArrayLike], u: Float[Array, "*P"], w: Float[Array, "*P"], degree: int
) -> Float[Array, "*P"]:
    """The sum of coefficients times u^i w^j, in the order of `powers`, by Horner's rule."""
    of = dict(zip(powers(degree), coefficients, strict=True))
    rows = [_horner([of[i, j] for i in range(degree + 1 - j)], u) for j in range(degree + 1)]
    return _horner(rows, w)


def _horner(coefficients: Sequence[ArrayLike], x: Array) -> Array:
    *others, last = coefficients
    total = jnp.asarray(last)
    for each in reversed(others):
        total = total * x + each
    return total


class Polynomial(nn.Module):
    """The network of a `ShareRule`: cubic in u and w, linear in s, and 0 before it is trained.

    Attributes:
        dtype: of the weights.
        positive: must be False; the polynomial may have any sign.
    """

    dtype: DTypeLike = jnp.float64
    positive: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*B 3"], train: bool = False) -> Float[Array, "*B 1"]:
        """P(u, w) + (a + b u) s `[..., 1]`, of u, w and s, with P(0, 0) = 0."""
        del train
        *of_shares, a, b = list(
            self.param("weights", nn.initializers.zeros, (WEIGHTS,), self.dtype)
        )
        u, w, s = x[..., 0], x[..., 1], x[..., 2]
        return (polynomial([0.0, *of_shares], u, w, DEGREE) + (a + b * u) * s)[..., None]
