"""Network inputs from the momentary two-body orbit of a pair. Units: G = 1.

They are free of scale: with the inverse root of `square_of_dynamical_rate` as the unit of time,
they are the same for all masses, sizes and numbers of bodies. They do not change when velocities
are reversed, so a rule that uses them can be symmetrised. r is the distance, v the relative speed,
mu the sum of the masses.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.pairs import Pairs, rate_of_all

ORBITAL_INPUTS = 4
SURROUNDINGS = 2
# Keeps the gradient of the eccentricity finite on a circle.
CIRCLE = 1e-4
# The smallest q, so that a pair at rest has a logarithm of it.
AT_REST = 1e-6
# Smaller q count as about this, that of apocentre at e = 0.98.
SLOW = 0.02
# The smallest `binding`, which pericentre of e = 0.99996 has.
UNBOUND = 1e-5
# How much of the depth in which others put a pair counts as its own energy. At 0.25 virialised
# systems of 3 to 8 bodies have about the error that was asked for.
OF_OTHERS = 0.25
# The smallest ratio, as the network sees it, of a rate to all rates together.
SLOWEST = 0.02


def square_of_dynamical_rate(pairs: Pairs) -> Float[Array, "*P"]:
    """mu / r^3 + v^2 / r^2: the faster of free fall and passage, smoothly.

    Infinite for two bodies in the same place.
    """
    inverse = pairs.inverse_distance
    return (pairs.mu * inverse + pairs.speed_squared) * (inverse * inverse)


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


def eccentric_inputs(pairs: Pairs) -> Float[Array, "*P 4"]:
    """log(q + 0.02), q c^2 / (2 + q), and the last two of `orbital_inputs`.

    Along an orbit of e near 1 these hardly depend on e, and none changes suddenly, as c^2 does near
    apocentre. So a network that was trained up to e = 0.99 knows larger e.
    """
    log_q, cosine_squared, squeezed, bound = jnp.moveaxis(orbital_inputs(pairs), -1, 0)
    q = jnp.exp(log_q)
    radial = cosine_squared * q / (2 + q)
    return jnp.stack([jnp.log(q + SLOW), radial, squeezed, bound], axis=-1)


def binding(pairs: Pairs) -> Float[Array, "*P"]:
    """|2 - q| / (2 + q): the energy of a pair over the sum of its kinetic energy and its depth.

    At pericentre it is (1 - e) / (3 + e). Next to other bodies the energy of a pair comes and goes,
    also through zero. Then that of the others takes its place, in the same units; and `UNBOUND`
    keeps the step of a parabola above zero.
    """
    q = pairs.distance * pairs.speed**2 / pairs.mu
    floor = UNBOUND + OF_OTHERS * pairs.distance * pairs.beside / pairs.mu
    return jnp.sqrt(((2 - q) / (2 + q)) ** 2 + floor**2)


def stake(pairs: Pairs, kinetic: Float[Array, ""] | float) -> Float[Array, "*P"]:
    """The energy at stake in an encounter, over that of all: by so much its errors count.

    The first is the sum of the kinetic energy of the pair and its depth. The second is the energy
    of the pair or, if that is larger, the kinetic energy of all other motion, as much as the energy
    that binds bodies in virial equilibrium. A binary so tight that it holds most of the energy has
    the stake 1 / `binding`. A massless body counts as one of the other's mass.

    Args:
        pairs: encounters.
        kinetic: `[]`, the kinetic energy of all bodies about their barycentre.
    """
    q = pairs.distance * pairs.speed_squared / pairs.mu
    product = jnp.where(pairs.product > 0, pairs.product, pairs.mu**2)
    depth = product / pairs.distance
    of_others = jnp.maximum(2 * kinetic / depth - q, 0.0) / (2 + q) + UNBOUND
    return 1 / jnp.sqrt(((2 - q) / (2 + q)) ** 2 + of_others**2)


def shares(
    pairs: Pairs, distance: Float[Array, "*P"]
) -> tuple[Float[Array, "*P"], Float[Array, "*P"]]:
    """u = v^2 / (v^2 + 2 mu / r), which is 1/2 on a parabola, and w, the part of it along r.

    0 for bodies in one place. The caller provides the distance, by a root or by the inverse of one,
    whichever it needs elsewhere.
    """
    moving = pairs.distance_squared * pairs.speed_squared
    whole = moving + 2 * pairs.mu * distance
    inverse = 1 / jnp.where(whole > 0, whole, 1.0)
    return moving * inverse, pairs.r_dot_v**2 * inverse


def softened_and_share(
    pairs: Pairs, rates: Float[Array, " P"], softening: Array | float
) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """(softening / distance)^2 of encounters, and their rates over that of all."""
    of_all = rate_of_all(rates)
    return (softening / pairs.distance) ** 2, rates / jnp.where(of_all > 0, of_all, 1.0)


def surroundings(
    pairs: Pairs, rates: Float[Array, " P"], softening: Array | float
) -> Float[Array, "P 2"]:
    """How softened a body's encounter is, and how fast compared with all.

    These are (softening / distance)^2, and the logarithm of its rate over that of all, which stays
    above that of `SLOWEST`.
    """
    softened, share = softened_and_share(pairs, rates, softening)
    return jnp.stack([softened, 0.5 * jnp.log(share**2 + SLOWEST**2)], axis=-1)
