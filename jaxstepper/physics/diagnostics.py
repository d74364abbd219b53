"""Conserved quantities and their errors. Units: G = 1.

Errors are judged about the barycentre, and relative to scales made of the system itself, so that no
inertial frame and no unit changes them. An external field fixes the frame: with one, energies and
momenta are those of the field's own frame, about its origin.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles

# Where |E| is a smaller part than this of kinetic plus potential energy, that part is the scale of
# errors. A bound pair meets it at the pericentre of an orbit of e > 0.996, else nowhere.
SMALL_FRACTION = 1e-3


class Energy(NamedTuple):
    """What later energies of a system are compared with.

    Attributes:
        value: `[]`, the internal energy.
        scale: `[]`, what errors are relative to.
    """

    value: Float[Array, "*B"]
    scale: Float[Array, "*B"]


def kinetic_energy(particles: Particles) -> Float[Array, ""]:
    """1/2 sum m v^2, `[]`."""
    return 0.5 * jnp.sum(particles.mass[:, None] * particles.velocity**2)


def total_energy(particles: Particles, gravity: Gravity) -> Float[Array, ""]:
    """Kinetic plus potential energy, the external field's included, `[]`."""
    potential = gravity.potential_energy(particles.position, particles.mass, particles.time)
    return kinetic_energy(particles) + potential


def barycentric(particles: Particles, gravity: Gravity) -> Particles:
    """The state seen from its barycentre; unchanged in an external field, which fixes the frame.

    Differences come first: subtracting M V^2 / 2 from an energy would cancel. A system without mass
    has no barycentre, and stays where it is.
    """
    if gravity.external is not None:
        return particles
    total = jnp.sum(particles.mass)
    share = (particles.mass / jnp.where(total > 0, total, 1.0))[:, None]

    def relative(z: Float[Array, "N D"]) -> Float[Array, "N D"]:
        # From the first body, so that the mean of a system far away is not lost to rounding.
        near = z - z[0]
        return near - jnp.sum(share * near, axis=0)

    x, v = relative(particles.position), relative(particles.velocity)
    return particles.replace(position=x, velocity=v)


def internal_energy(particles: Particles, gravity: Gravity) -> Float[Array, ""]:
    """Energy about the barycentre, `[]`; in an external field the energy in the field's frame."""
    return reference_energy(particles, gravity).value


def reference_energy(particles: Particles, gravity: Gravity) -> Energy:
    """The internal energy E = T + U, and the scale of its errors: |E|, where that is not small.

    The scale is max(|E|, (T + |U|) / 1000), which a parabola does not make 0.
    """
    kinetic = kinetic_energy(barycentric(particles, gravity))
    potential = gravity.potential_energy(particles.position, particles.mass, particles.time)
    energy = kinetic + potential
    least = SMALL_FRACTION * (kinetic + jnp.abs(potential))
    return Energy(energy, jnp.maximum(jnp.abs(energy), least))


def momentum(particles: Particles) -> Float[Array, " D"]:
    """sum m v, `[D]`."""
    return jnp.sum(particles.mass[:, None] * particles.velocity, axis=0)


def angular_momentum(particles: Particles) -> Float[Array, "..."]:
    """sum m x cross v about the origin.

    `[3]` for D = 3 and a scalar `[]` for D = 2; in other dimensions the D (D - 1) / 2 components
    L_ij = sum m (x_i v_j - x_j v_i) with i < j.
    """
    x, v = particles.position, particles.velocity
    dim = x.shape[1]
    if dim == 3:
        return jnp.sum(particles.mass[:, None] * jnp.cross(x, v), axis=0)
    i, j = jnp.triu_indices(dim, k=1)
    components = jnp.sum(particles.mass[:, None] * (x[:, i] * v[:, j] - x[:, j] * v[:, i]), axis=0)
    return components[0] if dim == 2 else components


def angular_momentum_scale(particles: Particles, gravity: Gravity) -> Float[Array, ""]:
    """|L| about the barycentre, `[]`; NaN where it is nothing but rounding.

    That is where sum m |x| sqrt(2 (T + |U|) / M), of the distances and energies, is 1 / sqrt(eps)
    times larger or more.
    """
    p = barycentric(particles, gravity)
    potential = gravity.potential_energy(p.position, p.mass, p.time)
    speed = jnp.sqrt(2 * (kinetic_energy(p) + jnp.abs(potential)) / jnp.sum(p.mass))
    reach = jnp.sum(p.mass * jnp.linalg.norm(p.position, axis=1))
    size = jnp.linalg.norm(angular_momentum(p))
    rounding = jnp.finfo(size.dtype).eps ** 0.5 * reach * speed
    return jnp.where(size > rounding, size, jnp.nan)


def relative_energy_error(energy: Float[Array, "..."], initial: Energy) -> Float[Array, "..."]:
    """|E - E0| / scale of internal energies; 0 where nothing changed, even at a scale of 0."""
    change, scale = jnp.abs(energy - initial.value), initial.scale
    relative = change / jnp.where(scale > 0, scale, 1.0)
    return jnp.where((scale > 0) | (change == 0), relative, jnp.inf)
