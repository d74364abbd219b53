"""Conserved quantities and their errors. Units: G = 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles

# Keeps the relative error finite at E = 0.
EPS = 1e-12


def kinetic_energy(particles: Particles) -> Float[Array, ""]:
    """1/2 sum m v^2, `[]`."""
    return 0.5 * jnp.sum(particles.mass[:, None] * particles.velocity**2)


def total_energy(particles: Particles, gravity: Gravity) -> Float[Array, ""]:
    """Kinetic plus potential energy, the external field's included, `[]`."""
    potential = gravity.potential_energy(particles.position, particles.mass, particles.time)
    return kinetic_energy(particles) + potential


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


def relative_energy_error(
    energy: Float[Array, "..."], initial: Float[Array, "..."]
) -> Float[Array, "..."]:
    """|E1 - E0| / |E0 + eps |E0| + eps|."""
    return jnp.abs(energy - initial) / jnp.abs(initial + EPS * jnp.abs(initial) + EPS)
