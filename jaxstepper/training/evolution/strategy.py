"""CMA-ES: an evolution strategy that learns which changes are good, and how large they should be.

It is written in JAX, so that a generation is one pure function on the device, and its whole state
lies in a checkpoint. Equations and constants: Hansen 2016, The CMA evolution strategy: a tutorial
(arXiv 1604.00772), with mirrored samples (Brockhoff et al. 2010).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Strategy:
    """A normal distribution of K numbers, mean + sigma N(0, covariance), and how it got there.

    Attributes:
        mean: `[K]`.
        sigma: `[]`.
        covariance: `[K, K]`.
        path: `[K]`, recent steps of the mean, in units of sigma.
        whitened_path: `[K]`, likewise, in units in which the covariance is 1.
        generation: `[]`, how many there were.
    """

    mean: Float[Array, " K"]
    sigma: Float[Array, ""]
    covariance: Float[Array, "K K"]
    path: Float[Array, " K"]
    whitened_path: Float[Array, " K"]
    generation: Int[Array, ""]


def fresh_strategy(mean: Float[Array, " K"], sigma: float) -> Strategy:
    """The strategy before its first generation."""
    none = jnp.zeros_like(mean)
    identity = jnp.eye(mean.size, dtype=mean.dtype)
    zero = jnp.zeros((), jnp.int32)
    return Strategy(mean, jnp.asarray(sigma, mean.dtype), identity, none, none, zero)


def ask(strategy: Strategy, key: Array, size: int) -> Float[Array, "P K"]:
    """The P candidates of a generation, an even number: half mirror the others."""
    s = strategy
    lengths, axes = _principal_axes(s.covariance)
    z = jax.random.normal(key, (size // 2, s.mean.size), s.mean.dtype)
    steps = (z * lengths) @ axes.T
    return s.mean + s.sigma * jnp.concatenate((steps, -steps))


def tell(
    strategy: Strategy, candidates: Float[Array, "P K"], losses: Float[Array, " P"]
) -> Strategy:
    """The strategy after a generation, of whose losses only the order counts."""
    s, (size, k) = strategy, candidates.shape
    weights = np.log(size / 2 + 0.5) - np.log(np.arange(1, size // 2 + 1))
    weights = weights / np.sum(weights)
    effective = 1 / np.sum(weights**2)
    rate_of_whitened = (effective + 2) / (k + effective + 5)
    rate_of_path = (4 + effective / k) / (k + 4 + 2 * effective / k)
    rank_one = 2 / ((k + 1.3) ** 2 + effective)
    rank_many = 2 * (effective - 2 + 1 / effective) / ((k + 2) ** 2 + effective)
    rank_many = min(1 - rank_one, rank_many)
    excess = max(0.0, float(np.sqrt((effective - 1) / (k + 1))) - 1)
    damping = 1 + 2 * excess + rate_of_whitened
    expected = np.sqrt(k) * (1 - 1 / (4 * k) + 1 / (21 * k**2))

    best = jnp.argsort(losses)[: size // 2]
    steps = (candidates[best] - s.mean) / s.sigma
    step = weights @ steps
    lengths, axes = _principal_axes(s.covariance)
    whitened = axes @ ((axes.T @ step) / lengths)
    fading = np.sqrt(rate_of_whitened * (2 - rate_of_whitened) * effective)
    whitened_path = (1 - rate_of_whitened) * s.whitened_path + fading * whitened
    length = jnp.sqrt(jnp.sum(whitened_path**2))
    generation = s.generation + 1
    settled = 1 - (1 - rate_of_whitened) ** (2 * generation)
    slow = length / jnp.sqrt(settled) < (1.4 + 2 / (k + 1)) * expected
    fading = np.sqrt(rate_of_path * (2 - rate_of_path) * effective)
    path = (1 - rate_of_path) * s.path + slow * fading * step
    covariance = (
        (1 - rank_one - rank_many) * s.covariance
        + rank_one * jnp.outer(path, path)
        + rank_many * (steps.T * weights) @ steps
    )
    return Strategy(
        mean=s.mean + s.sigma * step,
        sigma=s.sigma * jnp.exp(rate_of_whitened / damping * (length / expected - 1)),
        covariance=covariance,
        path=path,
        whitened_path=whitened_path,
        generation=generation,
    )


def _principal_axes(
    covariance: Float[Array, "K K"],
) -> tuple[Float[Array, " K"], Float[Array, "K K"]]:
    """The lengths and directions (columns) of the axes of the ellipsoid."""
    squares, axes = jnp.linalg.eigh(covariance)
    least = jnp.finfo(covariance.dtype).eps * squares[-1]
    return jnp.sqrt(jnp.maximum(squares, least)), axes
