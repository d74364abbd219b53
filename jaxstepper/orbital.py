"""What the momentary two-body orbit of a pair tells a network. Units: G = 1.

All of it is free of scale: the same for other masses, sizes and numbers of bodies, if time is
measured in units of `dynamical_time`. None of it changes when velocities are reversed, so that a
rule on it can be symmetrised. r is the distance, v the relative speed, mu the sum of the masses.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.pairs import Pairs

ORBITAL_INPUTS = 4
# Keeps the gradient of the eccentricity finite on a circle.
CIRCLE = 1e-4
# The smallest q there is: a pair at rest has no logarithm of it.
AT_REST = 1e-6


def dynamical_time(pairs: Pairs) -> Float[Array, "*P"]:
    """1 / sqrt(mu / r^3 + v^2 / r^2): the shorter of free fall and passage, smoothly."""
    r = pairs.distance
    return 1 / jnp.sqrt(pairs.mu / r**3 + (pairs.speed / r) ** 2)


def orbital_inputs(pairs: Pairs) -> Float[Array, "*P 4"]:
    """log q, c^2, the eccentricity, and (2 - q) / (2 + q), for q = r v^2 / mu.

    c is the cosine of the angle between r and v. The last is 1 at rest, 0 on a parabola and -1 for
    fast passages. The eccentricity e^2 = 1 + (q - 2) q (1 - c^2) is squeezed to 2 - 1/e above 1.
    """
    r, v = pairs.distance, pairs.speed
    q = r * v**2 / pairs.mu + AT_REST
    moving = v > 0
    cosine = jnp.where(moving, pairs.r_dot_v / (r * jnp.where(moving, v, 1.0)), 0.0)
    squared = 1 + (q - 2) * q * (1 - cosine**2)
    e = jnp.sqrt(jnp.maximum(squared, 0.0) + CIRCLE)
    squeezed = jnp.where(e < 1, e, 2 - 1 / e)
    return jnp.stack([jnp.log(q), cosine**2, squeezed, (2 - q) / (2 + q)], axis=-1)
