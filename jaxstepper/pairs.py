"""Minima and sums over pairs of bodies, for step-size rules.

Few bodies have all their pairs at once; more go row by row in small blocks, so that memory grows as
N, not N^2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxstepper.dynamics import ROWS_AT_ONCE, safe_sqrt
from jaxstepper.particles import Particles

# Up to this many bodies all pairs are in memory at once.
ALL_PAIRS_UP_TO = 16


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
    p, s = particles, softening

    def partner(i: Array) -> Int[Array, ""]:
        r, v, a = p.position - p.position[i], p.velocity - p.velocity[i], p.acceleration
        others = jnp.arange(p.mass.shape[0]) != i
        r = jnp.where(others[:, None], r, 1.0)
        times = time_scale(_pairs(p.mass + p.mass[i], r, v, a - a[i], s))
        return jnp.argmin(jnp.where(others, times, jnp.inf))

    bodies = jnp.arange(p.mass.shape[0])
    j = lax.stop_gradient(lax.map(partner, bodies, batch_size=ROWS_AT_ONCE))
    r, v, a = (z[j] - z for z in (p.position, p.velocity, p.acceleration))
    return _pairs(p.mass + p.mass[j], r, v, a, s)


def _are_few(particles: Particles) -> bool:
    return particles.mass.shape[0] <= ALL_PAIRS_UP_TO


def _all_pairs(particles: Particles, softening: Array | float) -> Pairs:
    count = particles.mass.shape[0]

    def differences(z: Array) -> Array:
        # Slices, since XLA fuses them into what follows; a gather it would not.
        return jnp.concatenate([z[i + 1 :] - z[i] for i in range(count - 1)])

    p = particles
    mu = jnp.concatenate([p.mass[i + 1 :] + p.mass[i] for i in range(count - 1)])
    r, v, a = (differences(z) for z in (p.position, p.velocity, p.acceleration))
    return _pairs(mu, r, v, a, softening)


def _by_rows(
    quantity: Quantity,
    reduce: Callable[[Array], Array],
    neutral: float,
    particles: Particles,
    softening: Array | float,
) -> Float[Array, " N"]:
    """`reduce` of each body's pairs with all the others."""
    p = particles
    count = p.mass.shape[0]

    def row(i: Array) -> Float[Array, ""]:
        others = jnp.arange(count) != i
        # A body is a distance of 1 from itself here, which keeps NaN out of the gradient.
        r = jnp.where(others[:, None], p.position - p.position[i], 1.0)
        v, a = p.velocity - p.velocity[i], p.acceleration - p.acceleration[i]
        values = quantity(_pairs(p.mass + p.mass[i], r, v, a, softening))
        return reduce(jnp.where(others, values, neutral))

    return lax.map(row, jnp.arange(count), batch_size=ROWS_AT_ONCE)


def _pairs(mu: Array, r: Array, v: Array, a: Array, softening: Array | float) -> Pairs:
    return Pairs(
        distance=safe_sqrt(_dot(r, r) + softening**2),
        mu=mu,
        r_dot_v=_dot(r, v),
        speed=safe_sqrt(_dot(v, v)),
        acceleration=safe_sqrt(_dot(a, a)),
    )


def _dot(x: Float[Array, "P D"], y: Float[Array, "P D"]) -> Float[Array, " P"]:
    # Unrolled: a reduction over two or three numbers costs more than they do.
    return sum((x[:, k] * y[:, k] for k in range(x.shape[1])), start=jnp.zeros((), x.dtype))
