"""Accelerations and their rates of change along the motion (jerks).

With G = 1, r = x_j - x_i, v = v_j - v_i and d^2 = r^2 + softening^2,

    a_i = sum_j m_j r / d^3,   j_i = sum_j m_j [v / d^3 - 3 (r.v) r / d^5].

An external field adds its acceleration, and the derivative of that along the motion. Source: Makino
& Aarseth 1992.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxstepper.machine.devices import share_rows
from jaxstepper.physics import pair_kernel
from jaxstepper.physics.fast_roots import inverse_root
from jaxstepper.physics.gravity import (
    BLOCK,
    BLOCKS,
    PAIRS_AT_ONCE_ON_ACCELERATOR,
    UNROLLED_UP_TO,
    ExternalField,
    Gravity,
    by_platform,
    inverse_distance,
    sum_together,
)
from jaxstepper.physics.reductions import SUM

# Pairs at once on a CPU, in whole rows; they stay in cache.
PAIRS_AT_ONCE = 32768


class Pull(NamedTuple):
    """What all bodies do to K of them.

    Attributes:
        acceleration: `[K, D]`.
        jerk: `[K, D]`.
        strength: `[K]`, the sum of the sizes of all accelerations, which may cancel; the rounding
            error of `acceleration` is that of numbers of this size.
    """

    acceleration: Float[Array, "K D"]
    jerk: Float[Array, "K D"]
    strength: Float[Array, " K"]


def acceleration_and_jerk(
    gravity: Gravity,
    position: Float[Array, "N D"],
    velocity: Float[Array, "N D"],
    mass: Float[Array, " N"],
    time: Float[Array, ""],
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Acceleration and jerk `[N, D]` of every body."""
    if 1 < len(mass) <= UNROLLED_UP_TO:
        own = _unrolled(position, velocity, gravity.attracting(mass), gravity.softening)
        if gravity.external is None:
            return own
        a, j = _of_field(gravity.external, position, velocity, time)
        return own[0] + a, own[1] + j
    motion = jnp.concatenate((position.T, velocity.T))
    pull = pull_on(gravity, motion, jnp.arange(len(mass)), motion, mass, time)
    return pull.acceleration, pull.jerk


def pull_on(
    gravity: Gravity,
    targets: Float[Array, "C K"],
    who: Int[Array, " K"],
    sources: Float[Array, "C N"],
    mass: Float[Array, " N"],
    time: Float[Array, ""],
) -> Pull:
    """The pull of N bodies on K of them, by the work of K N pairs.

    Args:
        gravity: what moves the bodies.
        targets: `[C, K]`, the C = 2 D components of position and velocity.
        who: `[K]`, which of the sources each target is: it feels nothing of that one. Nor of others
            in exactly its place; but its own distance of 0 may come out as a rounding error, where
            XLA computes a position twice.
        sources: `[C, N]`, as the targets.
        mass: `[N]`, of the sources.
        time: `[]`.
    """
    dim = len(targets) // 2
    mine = jnp.concatenate((who.astype(targets.dtype)[None], targets))
    sums = _sums(mine, sources, gravity.attracting(mass), gravity.softening)
    pull = Pull(sums[:dim].T, sums[dim:-1].T, sums[-1])
    if gravity.external is None:
        return pull
    x, v = targets[:dim].T, targets[dim:].T
    a, j = _of_field(gravity.external, x, v, time)
    strength = pull.strength + jnp.sum(jnp.abs(a), axis=1)
    return Pull(pull.acceleration + a, pull.jerk + j, strength)


def _of_field(
    field: ExternalField, position: Float[Array, "K D"], velocity: Float[Array, "K D"], time: Array
) -> tuple[Float[Array, "K D"], Float[Array, "K D"]]:
    """Acceleration and jerk of bodies by an external field."""
    a, j = jax.jvp(field.acceleration, (position, time), (velocity, jnp.ones_like(time)))
    return a, j


def _unrolled(
    position: Float[Array, "N D"],
    velocity: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Acceleration and jerk of a few bodies, each pair formed once.

    Every component is a number of its own, so that arithmetic of many systems runs along them.
    """
    count, dim = position.shape
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]

    def difference(z: Float[Array, "N D"], i: int, j: int) -> list[Array]:
        return [z[j, k] - z[i, k] for k in range(dim)]

    r = [difference(position, i, j) for i, j in pairs]
    v = [difference(velocity, i, j) for i, j in pairs]
    inverse = inverse_distance(jnp.stack([_dot(x, x) for x in r]) + softening**2)
    square = inverse * inverse
    cube = square * inverse
    approach = 3 * square * jnp.stack([_dot(x, y) for x, y in zip(r, v, strict=True)])
    nothing = jnp.zeros_like(position[0, 0])
    a, jerk = ([[nothing] * dim for _ in range(count)] for _ in range(2))
    for pair, (i, j) in enumerate(pairs):
        for k in range(dim):
            pull = cube[pair] * r[pair][k]
            change = cube[pair] * v[pair][k] - approach[pair] * pull
            for total, each in ((a, pull), (jerk, change)):
                total[i][k] = total[i][k] + mass[j] * each
                total[j][k] = total[j][k] - mass[i] * each
    return _stacked(a), _stacked(jerk)


def _stacked(components: list[list[Array]]) -> Float[Array, "N D"]:
    return jnp.stack([jnp.stack(of_body) for of_body in components])


def _sums(targets: Array, sources: Array, mass: Array, softening: float) -> Float[Array, "E K"]:
    """Components of acceleration and jerk, and the strength; a target's number comes first."""
    count = mass.shape[0]
    if count == 1:
        return jnp.zeros_like(targets)
    if count <= UNROLLED_UP_TO:
        pulls = (_pull(j, sources[:, j], targets, mass[j], softening) for j in range(count))
        return jnp.stack([sum(parts[1:], parts[0]) for parts in zip(*pulls, strict=True)])

    def of(some: Float[Array, "K C"]) -> Float[Array, "K E"]:
        return by_platform(
            cpu=lambda: _sums_in_blocks(some.T, sources, mass, softening),
            accelerator=lambda: _sums_by_rows(some.T, sources, mass, softening),
            gpu=lambda: _sums_by_kernel(some.T, sources, mass, softening),
            sources=count,
        ).T

    return share_rows(of, targets.T).T


def _sums_in_blocks(targets: Array, sources: Array, mass: Array, softening: float) -> Array:
    block = min(BLOCK, -(-mass.shape[0] // BLOCKS))
    missing = -mass.shape[0] % (BLOCKS * block)
    # Massless copies of the last body fill up the last block.
    sources = jnp.pad(sources, ((0, 0), (0, missing)), mode="edge")
    mass = jnp.pad(mass, (0, missing))
    numbers = np.arange(len(mass), dtype=sources.dtype)

    def of_some(some: Float[Array, "K C"]) -> Float[Array, "K E"]:
        pulls = _pull(numbers, sources[:, None], some.T[:, :, None], mass, softening, inverse_root)
        blocks = [pull.reshape(len(some), -1, BLOCKS, block) for pull in pulls]
        return jnp.stack([jnp.sum(x, (1, 2)) for x in sum_together(blocks, 2)], axis=1)

    return _by_some(of_some, targets, max(1, PAIRS_AT_ONCE // mass.shape[0]))


def _sums_by_rows(targets: Array, sources: Array, mass: Array, softening: float) -> Array:
    numbers = np.arange(len(mass), dtype=sources.dtype)

    def of_some(some: Float[Array, "K C"]) -> Float[Array, "K E"]:
        pulls = _pull(numbers, sources[:, None], some.T[:, :, None], mass, softening)
        return jnp.stack(sum_together(pulls, 1), axis=1)

    return _by_some(of_some, targets, max(1, PAIRS_AT_ONCE_ON_ACCELERATOR // mass.shape[0]))


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _sums_by_kernel(targets: Array, sources: Array, mass: Array, softening: float) -> Array:
    def terms(some: Sequence[Array], target: Sequence[Array]) -> list[Array]:
        *source, masses, number = some
        number = number.astype(mass.dtype)
        root = pair_kernel.inverse_distance
        return _pull(number, source, target, masses, softening, root)

    overs = [SUM] * (len(sources) + 1)
    return jnp.stack(pair_kernel.over_sources(terms, overs, [*targets], [*sources, mass]))


@_sums_by_kernel.defjvp
def _slope_by_rows(softening: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return jax.jvp(partial(_sums_by_rows, softening=softening), primals, tangents)


def _by_some(of_some: Callable[[Array], Array], targets: Array, most: int) -> Array:
    """`of_some` of all targets, at most so many at once."""
    if targets.shape[1] <= most:
        return of_some(targets.T).T
    return lax.map(lambda one: of_some(one[None])[0], targets.T, batch_size=most).T


def _pull(
    number: ArrayLike,
    source: Array | Sequence[Array],
    target: Array | Sequence[Array],
    mass: Array,
    softening: float,
    root: Callable[[Array], Array] = inverse_distance,
) -> list[Array]:
    """Components of acceleration and jerk by a source, and the size of its acceleration.

    `number` is that of the source; a target's stands before its position.
    """
    dim = len(source) // 2
    own, *where = target
    difference = [s - t for s, t in zip(source, where, strict=True)]
    r, v = difference[:dim], difference[dim:]
    r_squared = _dot(r, r)
    inverse = jnp.where(own == number, 0.0, root(r_squared + softening**2))
    square = inverse * inverse
    weight = mass * square * inverse
    approach = 3 * square * _dot(r, v)
    a = [weight * r_k for r_k in r]
    j = [weight * v_k - approach * a_k for v_k, a_k in zip(v, a, strict=True)]
    # A distance for r: equal unless it is softened, and 0 where a body meets itself.
    return [*a, *j, weight * inverse * r_squared]


def _dot(x: list[Array], y: list[Array]) -> Array:
    return sum((x_k * y_k for x_k, y_k in zip(x[1:], y[1:], strict=True)), start=x[0] * y[0])
