"""Minima and sums over pairs of bodies, for step-size rules.

Few bodies have all their pairs at once; more go row by row in small blocks, so that memory grows as
N, not N^2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.dynamics import for_each_body, safe_sqrt
from jaxstepper.particles import Particles

# Up to this many bodies, each pair is looked at once; beyond, from both of its ends.
ALL_PAIRS_UP_TO = 16

Vectors = list[Float[Array, "*P"]]
"""Vectors by their D components, so that all arithmetic runs along the pairs."""


class Pairs(NamedTuple):
    """Relative motion in P pairs; r, v, a are differences of the two bodies' vectors.

    Attributes:
        distance: `[P]`, sqrt(r^2 + softening^2).
        mu: `[P]`, the sum of the two masses.
        r_dot_v: `[P]`.
        speed: `[P]`, |v|.
        acceleration: `[P]`, |a|.
    """

    distance: Float[Array, "*P"]
    mu: Float[Array, "*P"]
    r_dot_v: Float[Array, "*P"]
    speed: Float[Array, "*P"]
    acceleration: Float[Array, "*P"]


Quantity = Callable[[Pairs], Array]


def minimum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The smallest `quantity` of any pair, `[]`."""
    if _are_few(particles):
        return jnp.min(quantity(_all_pairs(particles, softening)))
    return jnp.min(_by_rows(quantity, jnp.min, jnp.inf, particles, softening))


def sum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The sum of `quantity` over all pairs, each counted once, `[]`."""
    if _are_few(particles):
        return jnp.sum(quantity(_all_pairs(particles, softening)))
    return 0.5 * jnp.sum(_by_rows(quantity, jnp.sum, 0.0, particles, softening))


def shortest_pairs(time_scale: Quantity, particles: Particles, softening: Array | float) -> Pairs:
    """All pairs `[P]` of few bodies; of many, the pair of shortest `time_scale` of each body `[N]`.

    The pair of the shortest time scale of all is among them.
    """
    if _are_few(particles):
        return _all_pairs(particles, softening)

    def partner(i: Array) -> Int[Array, ""]:
        others = jnp.arange(particles.mass.shape[0]) != i
        times = time_scale(_pairs_of(i, others, particles, softening))
        return jnp.argmin(jnp.where(others, times, jnp.inf))

    j = lax.stop_gradient(for_each_body(partner, particles.mass.shape[0]))
    mass = particles.mass

    def differences(z: Float[Array, "N D"]) -> Vectors:
        return [x[j] - x for x in _components(z)]

    return _pairs(mass + mass[j], differences, particles, softening)


def _are_few(particles: Particles) -> bool:
    return particles.mass.shape[0] <= ALL_PAIRS_UP_TO


def _all_pairs(particles: Particles, softening: Array | float) -> Pairs:
    mass = particles.mass
    count = mass.shape[0]

    def differences(z: Float[Array, "N D"]) -> Vectors:
        # Slices, since XLA fuses them into what follows; a gather it would not.
        return [
            jnp.concatenate([x[i + 1 :] - x[i] for i in range(count - 1)]) for x in _components(z)
        ]

    mu = jnp.concatenate([mass[i + 1 :] + mass[i] for i in range(count - 1)])
    return _pairs(mu, differences, particles, softening)


def _by_rows(
    quantity: Quantity,
    reduce: Callable[[Array], Array],
    neutral: float,
    particles: Particles,
    softening: Array | float,
) -> Float[Array, " N"]:
    """`reduce` of each body's pairs with all the others."""

    def row(i: Array) -> Float[Array, ""]:
        others = jnp.arange(particles.mass.shape[0]) != i
        values = quantity(_pairs_of(i, others, particles, softening))
        return reduce(jnp.where(others, values, neutral))

    return for_each_body(row, particles.mass.shape[0])


def _pairs_of(
    i: Array, others: Bool[Array, " N"], particles: Particles, softening: Array | float
) -> Pairs:
    """Pairs `[N]` of body i with all bodies; with itself, at a distance of 1.

    That keeps NaN out of the gradient; what comes of it is for the caller to leave out.
    """
    mass = particles.mass

    def differences(z: Float[Array, "N D"]) -> Vectors:
        return [jnp.where(others, x - x[i], 1.0) for x in _components(z)]

    return _pairs(mass + mass[i], differences, particles, softening)


def _pairs(
    mu: Array,
    differences: Callable[[Array], Vectors],
    particles: Particles,
    softening: Array | float,
) -> Pairs:
    p = particles
    r, v, a = (differences(z) for z in (p.position, p.velocity, p.acceleration))
    return Pairs(
        distance=safe_sqrt(_dot(r, r) + softening**2),
        mu=mu,
        r_dot_v=_dot(r, v),
        speed=safe_sqrt(_dot(v, v)),
        acceleration=safe_sqrt(_dot(a, a)),
    )


def _components(z: Float[Array, "N D"]) -> list[Float[Array, " N"]]:
    return [z[:, k] for k in range(z.shape[1])]


def _dot(x: Vectors, y: Vectors) -> Float[Array, "*P"]:
    return sum((x_k * y_k for x_k, y_k in zip(x[1:], y[1:], strict=True)), start=x[0] * y[0])
