"""Minima and sums over pairs of bodies, for step-size rules.

For a few bodies all pairs are formed at once. Larger systems go row by row in small blocks, so that
memory grows as N, not N^2. Two massless bodies do not act on each other, so their pair counts
nowhere. A single body has no pair.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.physics.gravity import for_each_body, safe_sqrt
from jaxstepper.physics.particles import Particles

# Up to this many bodies each pair is a number of its own. With slices of three bodies, the gradient
# of a power of the distance in a `scan` crashes XLA's code for CPUs (jaxlib 0.10.2).
UNROLLED_UP_TO = 4
# Up to this many bodies each pair is formed once; beyond, once from either end.
ALL_PAIRS_UP_TO = 16

Vectors = list[Float[Array, "*P"]]
"""Vectors by their D components, so that all arithmetic runs along the pairs."""


class Pairs(NamedTuple):
    """Relative motion in P pairs; r, v, a are differences of the two bodies' vectors.

    Attributes:
        distance: `[P]`, sqrt(r^2 + softening^2).
        mu: `[P]`, the sum of the two masses.
        product: `[P]`, their product.
        r_dot_v: `[P]`.
        speed: `[P]`, |v|.
        acceleration: `[P]`, |a|.
        beside: `[P]`, the sum of mass / distance of all bodies around, the pair's own left out.
    """

    distance: Float[Array, "*P"]
    mu: Float[Array, "*P"]
    product: Float[Array, "*P"]
    r_dot_v: Float[Array, "*P"]
    speed: Float[Array, "*P"]
    acceleration: Float[Array, "*P"]
    beside: Float[Array, "*P"] | float = 0.0


Quantity = Callable[[Pairs], Array]


def minimum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The smallest `quantity` of any pair, `[]`; infinite if there is none."""
    if particles.mass.shape[0] == 1:
        return jnp.asarray(jnp.inf, particles.time.dtype)
    if _are_few(particles):
        acts, pairs = _acting(_all_pairs(particles, softening))
        return jnp.min(jnp.where(acts, quantity(pairs), jnp.inf))
    return jnp.min(_by_rows(quantity, jnp.min, jnp.inf, particles, softening))


def sum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The sum of `quantity` over all pairs, each counted once, `[]`."""
    if particles.mass.shape[0] == 1:
        return jnp.zeros((), particles.time.dtype)
    if _are_few(particles):
        acts, pairs = _acting(_all_pairs(particles, softening))
        return jnp.sum(jnp.where(acts, quantity(pairs), 0.0))
    return 0.5 * jnp.sum(_by_rows(quantity, jnp.sum, 0.0, particles, softening))


def encounters(
    rate: Quantity, particles: Particles, softening: Array | float
) -> tuple[Pairs, Float[Array, " P"]]:
    """The pair `[1]` of two bodies; for more bodies, the fastest pair of each, smoothed, `[N]`.

    The quantities of a body's pair are root mean squares over all its pairs, weighted by the fourth
    power of their `rate`. The fastest pair dominates, but nothing jumps when another takes its
    place; a symmetrised rule would answer a jump with oscillating steps.

    Returns:
        The pairs, and the fourth root of the sum of the fourth powers of their rates.
    """
    if particles.mass.shape[0] == 2:
        acts, pairs = _acting(_all_pairs(particles, softening))
        return pairs, jnp.where(acts, rate(pairs), 0.0)

    def of_body(i: Array) -> tuple[Pairs, Float[Array, ""]]:
        others = _others(i, particles)
        pairs = _pairs_of(i, others, particles, softening)
        largest, powers = _fourth_powers(jnp.where(others, rate(pairs), 0.0))
        total = jnp.sum(powers)
        nonzero = jnp.where(total > 0, total, 1.0)

        def mean(x: Array) -> Array:
            return jnp.sum(powers * x) / nonzero

        def root_mean(x: Array) -> Array:
            return safe_sqrt(mean(x * x))

        depths = jnp.where(others, particles.mass / pairs.distance, 0.0)
        typical = Pairs(
            distance=root_mean(pairs.distance),
            mu=mean(pairs.mu),
            product=mean(pairs.product),
            r_dot_v=mean(pairs.r_dot_v),
            speed=root_mean(pairs.speed),
            acceleration=root_mean(pairs.acceleration),
            beside=jnp.sum(depths) - mean(depths),
        )
        return typical, largest * safe_sqrt(safe_sqrt(total))

    typical, rates = for_each_body(of_body, particles.mass.shape[0])
    return _acting(typical)[1], rates


def rate_of_all(rates: Float[Array, " P"]) -> Float[Array, ""]:
    """The largest rate of `encounters`, smoothly: the fourth root of the sum over pairs of r^4.

    The sum over bodies counts each pair twice and is halved; a single pair has its own rate.
    """
    if rates.size == 1:
        return rates[0]
    largest, powers = _fourth_powers(rates)
    return largest * safe_sqrt(safe_sqrt(0.5 * jnp.sum(powers)))


def _fourth_powers(rates: Float[Array, " P"]) -> tuple[Float[Array, ""], Float[Array, " P"]]:
    """The largest rate, and fourth powers of all relative to it, which cannot overflow."""
    largest = lax.stop_gradient(jnp.max(rates))
    largest = jnp.where(largest > 0, largest, 1.0)
    squares = (rates / largest) ** 2
    return largest, squares * squares


def _others(i: Array, particles: Particles) -> Bool[Array, " N"]:
    """The bodies that body i acts on, or that act on it."""
    mass = particles.mass
    return (jnp.arange(mass.shape[0]) != i) & (mass + mass[i] > 0)


def _acting(pairs: Pairs) -> tuple[Bool[Array, " P"], Pairs]:
    """Which pairs have a mass; those that have none come back with a mu and distance of 1."""
    acts = pairs.mu > 0
    mu, distance = (jnp.where(acts, x, 1.0) for x in (pairs.mu, pairs.distance))
    return acts, pairs._replace(mu=mu, distance=distance)


def _are_few(particles: Particles) -> bool:
    return particles.mass.shape[0] <= ALL_PAIRS_UP_TO


def _all_pairs(particles: Particles, softening: Array | float) -> Pairs:
    mass = particles.mass
    count = mass.shape[0]

    def of_pairs(combine: Callable[[Array, Array], Array], x: Float[Array, " N"]) -> Array:
        # Numbers or slices, which XLA fuses into what follows, unlike a gather.
        if count <= UNROLLED_UP_TO:
            pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
            return jnp.stack([combine(x[j], x[i]) for i, j in pairs])
        return jnp.concatenate([combine(x[i + 1 :], x[i]) for i in range(count - 1)])

    def differences(z: Float[Array, "N D"]) -> Vectors:
        return [of_pairs(operator.sub, x) for x in _components(z)]

    mu, product = of_pairs(operator.add, mass), of_pairs(operator.mul, mass)
    return _pairs(mu, product, differences, particles, softening)


def _by_rows(
    quantity: Quantity,
    reduce: Callable[[Array], Array],
    neutral: float,
    particles: Particles,
    softening: Array | float,
) -> Float[Array, " N"]:
    """`reduce` applied to each body's pairs with all the others."""

    def row(i: Array) -> Float[Array, ""]:
        others = _others(i, particles)
        values = quantity(_pairs_of(i, others, particles, softening))
        return reduce(jnp.where(others, values, neutral))

    return for_each_body(row, particles.mass.shape[0])


def _pairs_of(
    i: Array, others: Bool[Array, " N"], particles: Particles, softening: Array | float
) -> Pairs:
    """Pairs `[N]` of body i with all bodies, of which those not in `others` have values of 1.

    These keep NaN out of the gradient; the caller leaves such pairs out.
    """
    mass = particles.mass
    mu = jnp.where(others, mass + mass[i], 1.0)

    def differences(z: Float[Array, "N D"]) -> Vectors:
        return [jnp.where(others, x - x[i], 1.0) for x in _components(z)]

    return _pairs(mu, mass * mass[i], differences, particles, softening)


def _pairs(
    mu: Array,
    product: Array,
    differences: Callable[[Array], Vectors],
    particles: Particles,
    softening: Array | float,
) -> Pairs:
    p = particles
    r, v, a = (differences(z) for z in (p.position, p.velocity, p.acceleration))
    return Pairs(
        distance=safe_sqrt(_dot(r, r) + softening**2),
        mu=mu,
        product=product,
        r_dot_v=_dot(r, v),
        speed=safe_sqrt(_dot(v, v)),
        acceleration=safe_sqrt(_dot(a, a)),
    )


def _components(z: Float[Array, "N D"]) -> list[Float[Array, " N"]]:
    return [z[:, k] for k in range(z.shape[1])]


def _dot(x: Vectors, y: Vectors) -> Float[Array, "*P"]:
    return sum((x_k * y_k for x_k, y_k in zip(x[1:], y[1:], strict=True)), start=x[0] * y[0])
