"""Minima and sums over pairs of bodies, for step-size rules.

For a few bodies all pairs are formed at once. Larger systems go row by row in small blocks, so that
memory grows as N, not N^2. Two massless bodies do not act on each other, so their pair counts
nowhere. A single body has no pair.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.machine.devices import share_rows
from jaxstepper.physics.fast_roots import inverse_cube
from jaxstepper.physics.gravity import (
    BLOCK,
    BLOCKS,
    by_platform,
    for_each_body,
    safe_sqrt,
    sum_together,
)
from jaxstepper.physics.particles import Particles
from jaxstepper.physics.reductions import MAXIMUM, MINIMUM, SUM, Reduction

# Up to this many bodies each pair is a number of its own. With slices of three bodies, the gradient
# of a power of the distance in a `scan` crashes XLA's code for CPUs (jaxlib 0.10.2).
UNROLLED_UP_TO = 4
# Up to this many bodies each pair is formed once; beyond, once from either end.
ALL_PAIRS_UP_TO = 16
# Sources whose pairs with all bodies are in memory at once, on a CPU.
SOURCES_AT_ONCE = 16

Vectors = list[Float[Array, "*P"]]
"""Vectors by their D components, so that all arithmetic runs along the pairs."""


class Pairs(NamedTuple):
    """Relative motion in P pairs; r, v, a are differences of the two bodies' vectors.

    Attributes:
        distance_squared: `[P]`, r^2 + softening^2.
        mu: `[P]`, the sum of the two masses.
        product: `[P]`, their product.
        r_dot_v: `[P]`.
        speed_squared: `[P]`, v^2.
        acceleration: `[P]`, |a|.
        beside: `[P]`, the sum of mass / distance of all bodies around, the pair's own left out.
    """

    distance_squared: Float[Array, "*P"]
    mu: Float[Array, "*P"]
    product: Float[Array, "*P"]
    r_dot_v: Float[Array, "*P"]
    speed_squared: Float[Array, "*P"]
    acceleration: Float[Array, "*P"]
    beside: Float[Array, "*P"] | float = 0.0

    @property
    def distance(self) -> Float[Array, "*P"]:
        """`[P]`, sqrt(r^2 + softening^2)."""
        return safe_sqrt(self.distance_squared)

    @property
    def inverse_distance(self) -> Float[Array, "*P"]:
        """`[P]`, 1 / distance; for bodies in the same place so large that its cube overflows."""
        square = self.distance_squared
        return 1 / jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))

    @property
    def speed(self) -> Float[Array, "*P"]:
        """`[P]`, |v|."""
        return safe_sqrt(self.speed_squared)


Quantity = Callable[[Pairs], Array]


def minimum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The smallest `quantity` of any pair, `[]`; infinite if there is none."""
    return _over_pairs(quantity, MINIMUM, particles, softening)


def maximum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The largest `quantity`, which is positive, of any pair, `[]`; 0 if there is none."""
    return _over_pairs(quantity, MAXIMUM, particles, softening)


def sum_over_pairs(
    quantity: Quantity, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The sum of `quantity` over all pairs, each counted once, `[]`."""
    total = _over_pairs(quantity, SUM, particles, softening)
    return total if are_few(particles) else 0.5 * total


def _over_pairs(
    quantity: Quantity, over: Reduction, particles: Particles, softening: Array | float
) -> Float[Array, ""]:
    """The reduction of `quantity` over pairs: once each of a few bodies, else from either end."""
    if particles.mass.shape[0] == 1:
        return jnp.asarray(over.neutral, particles.time.dtype)
    if are_few(particles):
        acts, pairs = all_pairs(particles, softening)
        return over.reduce(jnp.where(acts, quantity(pairs), over.neutral))
    return over.reduce(_of_each_body(quantity, over, particles, softening))


def largest_free_fall_rate(particles: Particles, softening: Array | float) -> Float[Array, ""]:
    """The largest sqrt(mu / r^3) of any pair, `[]`; 0 if there is none."""
    if particles.time.dtype == jnp.float64:
        # A power without a root takes half the time, and single precision has no room for it.
        return safe_sqrt(safe_sqrt(maximum_over_pairs(_fourth_power, particles, softening)))
    return safe_sqrt(maximum_over_pairs(square_of_free_fall, particles, softening))


def encounters(
    squared_rate: Quantity, particles: Particles, softening: Array | float
) -> tuple[Pairs, Float[Array, " P"]]:
    """The pair `[1]` of two bodies; for more bodies, the fastest pair of each, smoothed, `[N]`.

    The quantities of a body's pair are root mean squares over all its pairs, weighted by the fourth
    power of their rate. The fastest pair dominates, but nothing jumps when another takes its
    place; a symmetrised rule would answer a jump with oscillating steps.

    Returns:
        The pairs, and the fourth root of the sum of the fourth powers of their rates; infinite for
        bodies in the same place.
    """
    if particles.mass.shape[0] == 2:
        acts, pairs = all_pairs(particles, softening)
        met = acts & (pairs.distance_squared == 0)
        rates = safe_sqrt(jnp.where(acts, squared_rate(pairs), 0.0))
        return pairs, jnp.where(met, jnp.inf, rates)

    def of_body(i: Array) -> tuple[Pairs, Float[Array, ""]]:
        return _encounter(i, squared_rate, particles, softening)

    typical, rates = for_each_body(of_body, particles.mass.shape[0])
    return _acting(typical)[1], rates


def fastest_encounters(
    particles: Particles,
    softening: Array | float,
    most: int,
    fourth_powers: Float[Array, " N"] | None = None,
) -> tuple[Pairs, Float[Array, " K"]]:
    """The `encounters` `[K]` among the K bodies that fall fastest, of more than K.

    Their rates are those of free fall, sqrt(mu / r^3). Both bodies of the fastest pairs are among
    them, so that slower bodies, which count nowhere, would add little to the sums.

    Args:
        particles: the bodies.
        softening: of the force.
        most: K; a pair has two bodies, and 1 counts as 2.
        fourth_powers: `[N]`, of every body the sum of the fourth powers of the rates of its pairs.
            Without these, one more pass over all pairs finds them; it needs no velocity and, in
            double precision, no root.
    """
    if fourth_powers is None:
        wide = particles.time.dtype == jnp.float64

        def power(pairs: Pairs) -> Array:
            # In single precision, close pairs overflow, which only makes them the fastest.
            return _fourth_power(pairs) if wide else square_of_free_fall(pairs) ** 2

        fourth_powers = _of_each_body(power, SUM, particles, softening)
    # XLA sorts single precision several times faster, and it has room for the rates themselves.
    rates = safe_sqrt(safe_sqrt(lax.stop_gradient(fourth_powers))).astype(jnp.float32)
    bodies = lax.top_k(rates, max(most, 2))[1]
    p = particles
    fastest = p.replace(
        mass=p.mass[bodies],
        position=p.position[bodies],
        velocity=p.velocity[bodies],
        acceleration=p.acceleration[bodies],
    )
    return encounters(square_of_free_fall, fastest, softening)


def _encounter(
    i: Array, squared_rate: Quantity, particles: Particles, softening: Array | float
) -> tuple[Pairs, Float[Array, ""]]:
    """The smoothed pair of a body, and its rate."""
    others = _others(i, particles)
    pairs = _pairs_of(i, others, particles, softening)
    squares = jnp.where(others, squared_rate(pairs), 0.0)
    # Powers of rates are relative to the largest, so that they cannot overflow.
    unit = lax.stop_gradient(jnp.max(squares))
    unit = jnp.where(unit > 0, unit, 1.0)
    relative = squares / unit
    powers = relative * relative
    means = (pairs.distance_squared, pairs.mu, pairs.r_dot_v, pairs.speed_squared)
    total, *sums = sums_of_rows([powers, *(powers * x for x in means)])
    nonzero = jnp.where(total > 0, total, 1.0)
    distance_squared, mu, r_dot_v, speed_squared = (x / nonzero for x in sums)
    depths = jnp.where(others, particles.mass / pairs.distance, 0.0)
    typical = Pairs(
        distance_squared,
        mu,
        jnp.sum(powers * pairs.product) / nonzero,
        r_dot_v,
        speed_squared,
        safe_sqrt(jnp.sum(powers * pairs.acceleration**2) / nonzero),
        beside=jnp.sum(depths) - jnp.sum(powers * depths) / nonzero,
    )
    met = jnp.any(others & (pairs.distance_squared == 0))
    return typical, jnp.where(met, jnp.inf, safe_sqrt(unit * safe_sqrt(total)))


@jax.custom_jvp
def sums_of_rows(terms: list[Float[Array, " N"]]) -> list[Float[Array, ""]]:
    """The sum of each, in one loop for all, which computes once what they share."""
    blocks = min(BLOCKS, -(-terms[0].size // BLOCK))
    missing = -terms[0].size % (blocks * BLOCK)
    split = [jnp.pad(x, (0, missing)).reshape(-1, blocks, BLOCK) for x in terms]
    return [jnp.sum(x) for x in sum_together(split, 1)]


@sums_of_rows.defjvp
def _slope_of_sums(terms: tuple, changes: tuple) -> tuple[list[Array], list[Array]]:
    return sums_of_rows(*terms), [jnp.sum(x) for x in changes[0]]


def square_of_free_fall(pairs: Pairs) -> Float[Array, "*P"]:
    """mu / r^3, the square of the rate of free fall; infinite for two bodies in the same place."""
    square = pairs.mu * inverse_cube(pairs.distance_squared)
    return jnp.where(pairs.distance_squared > 0, square, jnp.inf)


def _fourth_power(pairs: Pairs) -> Float[Array, "*P"]:
    square = pairs.distance_squared
    return pairs.mu * pairs.mu / (square * square * square)


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
    mu, square = (jnp.where(acts, x, 1.0) for x in (pairs.mu, pairs.distance_squared))
    return acts, pairs._replace(mu=mu, distance_squared=square)


def are_few(particles: Particles) -> bool:
    """Whether all pairs are formed at once."""
    return particles.mass.shape[0] <= ALL_PAIRS_UP_TO


def all_pairs(particles: Particles, softening: Array | float) -> tuple[Bool[Array, " P"], Pairs]:
    """Every pair once, and which of them have a mass; others have a mu and distance of 1."""
    return _acting(_all_pairs(particles, softening))


def of_all_pairs(
    combine: Callable[[Array, Array], Array], x: Float[Array, " N"]
) -> Float[Array, " P"]:
    """`combine` of the later and the earlier body of every pair, in the order of `all_pairs`."""
    count = x.shape[0]
    # Numbers or slices, which XLA fuses into what follows, unlike a gather.
    if count <= UNROLLED_UP_TO:
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        return jnp.stack([combine(x[j], x[i]) for i, j in pairs])
    if count <= ALL_PAIRS_UP_TO:
        return jnp.concatenate([combine(x[i + 1 :], x[i]) for i in range(count - 1)])
    earlier, later = np.triu_indices(count, k=1)
    return combine(x[later], x[earlier])


def differences(z: Float[Array, "N D"]) -> Vectors:
    """The differences of bodies' vectors in all pairs, by components, in the same order."""
    return [of_all_pairs(operator.sub, x) for x in _components(z)]


def _all_pairs(particles: Particles, softening: Array | float) -> Pairs:
    mass = particles.mass
    mu, product = of_all_pairs(operator.add, mass), of_all_pairs(operator.mul, mass)
    return _pairs(mu, product, differences, particles, softening)


def _of_each_body(
    quantity: Quantity, over: Reduction, particles: Particles, softening: Array | float
) -> Float[Array, " N"]:
    """The reduction of `quantity` over each body's pairs with all the others."""
    count = particles.mass.shape[0]

    def row(i: Array) -> Float[Array, ""]:
        others = _others(i, particles)
        values = quantity(_pairs_of(i, others, particles, softening))
        return over.reduce(jnp.where(others, values, over.neutral))

    def of(rows: Float[Array, "K C"]) -> Float[Array, " K"]:
        return _by_sources(rows, quantity, over, particles, softening)

    p = particles
    numbers = jnp.arange(count, dtype=p.mass.dtype)
    rows = jnp.column_stack([numbers, p.mass, p.position, p.velocity, p.acceleration])
    return by_platform(
        cpu=lambda: share_rows(of, rows), accelerator=lambda: for_each_body(row, count)
    )


def _motion(particles: Particles) -> tuple[Array, Vectors, Vectors, Vectors]:
    """Mass, position, velocity and acceleration, by components."""
    p = particles
    return p.mass, _components(p.position), _components(p.velocity), _components(p.acceleration)


def _by_sources(
    rows: Float[Array, "K C"],
    quantity: Quantity,
    over: Reduction,
    particles: Particles,
    softening: Array | float,
) -> Float[Array, " K"]:
    """Takes the pairs of some bodies with a few sources at a time.

    Every operation is on vectors over the bodies, so that nothing is reduced within one. A row is a
    body's number, mass, position, velocity and acceleration.
    """
    bodies, own_mass, *columns = _components(rows)
    dim = len(columns) // 3
    own = [columns[k : k + dim] for k in range(0, 3 * dim, dim)]
    count = particles.mass.shape[0]
    size = min(count, SOURCES_AT_ONCE)
    missing = -count % size
    # Copies of the last body, whose number is none's, fill up the last block.
    numbers = np.arange(count + missing).reshape(-1, size)
    blocks = jax.tree.map(
        lambda x: jnp.pad(x, (0, missing), mode="edge").reshape(-1, size), _motion(particles)
    )

    def add(total: Array, block: tuple) -> tuple[Array, None]:
        number, (mass, *theirs) = block
        mu = mass[:, None] + own_mass
        acts = (number[:, None] != bodies) & (number < count)[:, None] & (mu > 0)

        def kept(x: Array) -> Array:
            return jnp.where(acts, x, 1.0)

        r, v, a = (
            [y[:, None] - x for x, y in zip(mine, others, strict=True)]
            for mine, others in zip(own, theirs, strict=True)
        )
        pairs = Pairs(
            distance_squared=kept(dot(r, r) + softening**2),
            mu=kept(mu),
            product=mass[:, None] * own_mass,
            r_dot_v=kept(dot(r, v)),
            speed_squared=kept(dot(v, v)),
            acceleration=safe_sqrt(kept(dot(a, a))),
        )
        for values in jnp.where(acts, quantity(pairs), over.neutral):
            total = over.combine(total, values)
        return total, None

    start = jnp.full_like(bodies, over.neutral)
    return lax.scan(add, start, (numbers, blocks))[0]


def _pairs_of(
    i: Array, others: Bool[Array, " N"], particles: Particles, softening: Array | float
) -> Pairs:
    """Pairs `[N]` of body i with all bodies, of which those not in `others` have values of 1.

    These keep NaN out of the gradient; the caller leaves such pairs out.
    """
    mass = particles.mass
    mu = jnp.where(others, mass + mass[i], 1.0)

    def differences(z: Float[Array, "N D"]) -> Vectors:
        mine = z[i]
        return [
            jnp.where(others, x - x_i, 1.0) for x, x_i in zip(_components(z), mine, strict=True)
        ]

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
        distance_squared=dot(r, r) + softening**2,
        mu=mu,
        product=product,
        r_dot_v=dot(r, v),
        speed_squared=dot(v, v),
        acceleration=safe_sqrt(dot(a, a)),
    )


def _components(z: Float[Array, "N D"]) -> list[Float[Array, " N"]]:
    return [z[:, k] for k in range(z.shape[1])]


def dot(x: Vectors, y: Vectors) -> Float[Array, "*P"]:
    return sum((x_k * y_k for x_k, y_k in zip(x[1:], y[1:], strict=True)), start=x[0] * y[0])
