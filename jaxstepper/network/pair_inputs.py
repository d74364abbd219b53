"""What a learned pair rule sees of a pair: its orbit, its energy, and how its force changes.

All is without units, and the same in every frame. Units: G = 1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.network.derivative_inputs import MOST_INPUT, log_ratio, ratio
from jaxstepper.network.orbital_inputs import AT_REST
from jaxstepper.physics.gravity import safe_sqrt
from jaxstepper.physics.pairs import Pairs, Vectors, dot, square_of_free_fall

PAIR_INPUTS = 11
# The least share in the energy, as the rule sees it, and the most.
LEAST_SHARE, MOST_SHARE = 0.02, 1e4


def pair_inputs(
    pairs: Pairs, changes: list[Vectors], dt: Float[Array, ""], mass: Float[Array, ""]
) -> Float[Array, "P F"]:
    """Numbers `[P, F]` on the motion in all P pairs of a system.

    With the relative position r, velocity v, acceleration a, jerk j, snap s and crackle c of the
    masses m1 and m2, whose sum is mu, the free-fall time T = sqrt(r^3 / mu), the energy E and mass
    M of the system, and the last step h, they are

        log(m1 m2 / (r |E|) + 0.02), how much the energy feels an error in this pair;
        cos, cos^2 and tanh(log(r v^2 / (2 mu))), with the cosine of r and v: where on its orbit
            the pair is;
        log(mu / M);
        log(T / t), with the time t of Aarseth's criterion for eta = 1;
        log(T sqrt(s / a)) and log(T (c / a)^(1/3)), other times of change;
        h a.j / a^2, h j.s / j^2 and h s.c / s^2, the growth of force, jerk and snap in a step.

    Args:
        pairs: all of them.
        changes: a, h j, h^2 s and h^3 c, each by its components.
        dt: `[]`, h.
        mass: `[]`, M.
    """
    r, mu, v = pairs.distance, pairs.mu, pairs.speed
    energy = jnp.abs(jnp.sum(pairs.product * (v**2 / (2 * mass) - 1 / r)))
    share = jnp.minimum(ratio(pairs.product / r, jnp.full_like(r, energy)), MOST_SHARE)
    cosine = ratio(pairs.r_dot_v, r * v)
    steps = 1 / (safe_sqrt(square_of_free_fall(pairs)) * dt)
    acceleration, jerk, snap, crackle = changes
    a, j, s, c = (safe_sqrt(dot(z, z)) for z in changes)
    of_orbit = [
        jnp.log(share + LEAST_SHARE),
        cosine,
        cosine**2,
        jnp.tanh(jnp.log(r * v**2 / (2 * mu) + AT_REST)),
        jnp.log(mu / mass),
    ]
    of_force = [
        log_ratio(steps**2 * (j * c + s**2), a * s + j**2) / 2,
        log_ratio(steps**2 * s, a) / 2,
        log_ratio(steps**3 * c, a) / 3,
        ratio(dot(acceleration, jerk), a**2),
        ratio(dot(jerk, snap), j**2),
        ratio(dot(snap, crackle), s**2),
    ]
    kept = [jnp.clip(each, -MOST_INPUT, MOST_INPUT) for each in of_force]
    return jnp.stack([*of_orbit, *kept], axis=-1)
