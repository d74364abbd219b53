"""Network inputs from the momentary two-body orbit of a pair. Units: G = 1.

They are free of scale: with the inverse root of `square_of_dynamical_rate` as the unit of time,
they are the same for all masses, sizes and numbers of bodies. They do not change when velocities
are reversed, so a rule that uses them can be symmetrised. r is the distance, v the relative speed,
mu the sum of the masses.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.pairs import Pairs, rate_of_all, square_of_free_fall

ORBITAL_INPUTS = 4
SURROUNDINGS = 2
# Keeps the gradient of the eccentricity finite on a circle.
CIRCLE = 1e-4
# The smallest q, so that a pair at rest has a logarithm of it.
AT_REST = 1e-6
# The smallest ratio, as the network sees it, of a rate to all rates together.
SLOWEST = 0.02


def square_of_dynamical_rate(pairs: Pairs) -> Float[Array, "*P"]:
    """mu / r^3 + v^2 / r^2: the faster of free fall and passage, smoothly."""
    return square_of_free_fall(pairs) + pairs.speed_squared / pairs.distance_squared


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


def surroundings(
    pairs: Pairs, rates: Float[Array, " P"], softening: Array | float
) -> Float[Array, "P 2"]:
    """How softened a body's encounter is, and how fast compared with all.

    These are (softening / distance)^2, and the logarithm of its rate over that of all, which stays
    above that of `SLOWEST`.
    """
    of_all = rate_of_all(rates)
    share = rates / jnp.where(of_all > 0, of_all, 1.0)
    softened = (softening / pairs.distance) ** 2
    return jnp.stack([softened, 0.5 * jnp.log(share**2 + SLOWEST**2)], axis=-1)
