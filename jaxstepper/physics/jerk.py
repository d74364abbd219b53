"""Accelerations and their rates of change along the motion (jerks). Units: G = 1.

With r = x_j - x_i and v = v_j - v_i, both softened as the force is,

    a_i = sum_j m_j r / d^3,   j_i = sum_j m_j [v / d^3 - 3 (r.v) r / d^5],   d^2 = r^2 + softening^2.

An external field adds its acceleration, and the derivative of that along the motion. Source: Makino
& Aarseth 1992.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import (
    PAIRS_AT_ONCE_ON_ACCELERATOR,
    SOURCES_AT_ONCE,
    Gravity,
    by_platform,
    inverse_distance,
)

Both = tuple[Array, Array]
"""Acceleration and jerk `[K, D]`, or position and velocity."""


def acceleration_and_jerk(
    gravity: Gravity,
    position: Float[Array, "N D"],
    velocity: Float[Array, "N D"],
    mass: Float[Array, " N"],
    time: Float[Array, ""],
) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
    """Acceleration and jerk `[N, D]` of every body."""
    return acceleration_and_jerk_of(gravity, (position, velocity), position, velocity, mass, time)


def acceleration_and_jerk_of(
    gravity: Gravity,
    targets: tuple[Float[Array, "K D"], Float[Array, "K D"]],
    position: Float[Array, "N D"],
    velocity: Float[Array, "N D"],
    mass: Float[Array, " N"],
    time: Float[Array, ""],
) -> tuple[Float[Array, "K D"], Float[Array, "K D"]]:
    """Acceleration and jerk `[K, D]` of some bodies, by all N; the work is that of K N pairs.

    Args:
        gravity: what moves the bodies.
        targets: position and velocity `[K, D]` of the K bodies. Where one of them is exactly that
            of a source, as a body is its own, it feels nothing of that source.
        position: `[N, D]`, of the sources.
        velocity: `[N, D]`, of the sources.
        mass: `[N]`, of the sources.
        time: `[]`.
    """
    sources, softening = (position, velocity), gravity.softening
    if mass.shape[0] == 1:
        a, j = (jnp.zeros_like(x) for x in targets)
    else:
        a, j = by_platform(
            cpu=lambda: _by_sources(targets, sources, mass, softening),
            accelerator=lambda: _by_rows(targets, sources, mass, softening),
        )
    external = gravity.external
    if external is None:
        return a, j
    tangents = (targets[1], jnp.ones_like(time))
    field, slope = jax.jvp(external.acceleration, (targets[0], time), tangents)
    return a + field, j + slope


def _by_sources(targets: Both, sources: Both, mass: Array, softening: float) -> Both:
    """Sums the pull of a few sources at a time on all targets, in vectors over the targets."""
    count, dim = sources[0].shape
    size = min(count, SOURCES_AT_ONCE)
    missing = -count % size
    # Massless copies of the last body fill up the last block.
    blocks = [
        jnp.pad(z, ((0, missing), (0, 0)), mode="edge").reshape(-1, size, dim) for z in sources
    ]
    masses = jnp.pad(mass, (0, missing)).reshape(-1, size)
    x, v = ([z[:, k] for k in range(dim)] for z in targets)

    def add_pull(total: list[Array], block: tuple[Array, Array, Array]) -> tuple[list[Array], None]:
        x_s, v_s, m_s = block
        for s in range(size):
            r = [x_s[s, k] - x[k] for k in range(dim)]
            w = [v_s[s, k] - v[k] for k in range(dim)]
            total = [t + p for t, p in zip(total, _pull(r, w, m_s[s], softening), strict=True)]
        return total, None

    zero = [jnp.zeros_like(x[0])] * (2 * dim)
    total = lax.scan(add_pull, zero, (*blocks, masses))[0]
    return jnp.stack(total[:dim], axis=1), jnp.stack(total[dim:], axis=1)


def _by_rows(targets: Both, sources: Both, mass: Array, softening: float) -> Both:
    """Sums the pulls on each target over rows of the pair matrix, a block of rows at a time."""
    x, v = (z.T for z in sources)

    def row(target: Both) -> Both:
        r = [x_k - t_k for x_k, t_k in zip(x, target[0], strict=True)]
        w = [v_k - t_k for v_k, t_k in zip(v, target[1], strict=True)]
        sums = jnp.stack([jnp.sum(pull) for pull in _pull(r, w, mass, softening)])
        return sums[: len(r)], sums[len(r) :]

    at_once = max(1, PAIRS_AT_ONCE_ON_ACCELERATOR // mass.shape[0])
    return lax.map(row, targets, batch_size=min(targets[0].shape[0], at_once))


def _pull(r: list[Array], w: list[Array], mass: Array, softening: float) -> list[Array]:
    """Acceleration and jerk by a source, 2 D components, from its relative place and velocity."""
    r_squared = sum((r_k * r_k for r_k in r), start=jnp.asarray(softening**2, r[0].dtype))
    inverse = inverse_distance(r_squared)
    square = inverse * inverse
    weight = mass * square * inverse
    approach = (
        3 * square * sum((r_k * w_k for r_k, w_k in zip(r, w, strict=True)), jnp.zeros_like(r[0]))
    )
    pulls = [weight * r_k for r_k in r]
    return pulls + [weight * w_k - approach * a_k for w_k, a_k in zip(w, pulls, strict=True)]
