"""The predictor and the corrector of Hermite's fourth-order scheme."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.particles import Particles


def hermite(
    particles: Particles, jerk: Float[Array, "N D"], dt: Float[Array, ""] | float, gravity: Gravity
) -> tuple[Particles, Float[Array, "N D"]]:
    """One step of size dt, and the jerks after it.

    It predicts, evaluates accelerations and jerks once, and corrects; both are those of the
    predicted state. Source: Makino & Aarseth 1992.

    Args:
        particles: the state.
        jerk: `[N, D]`, da/dt at the state.
        dt: `[]`.
        gravity: the force.
    """
    p, dt = particles, jnp.asarray(dt, particles.time.dtype)
    x = p.position + dt * (p.velocity + dt / 2 * (p.acceleration + dt / 3 * jerk))
    v = p.velocity + dt * (p.acceleration + dt / 2 * jerk)
    time = p.time + dt
    a, j = acceleration_and_jerk(gravity, x, v, p.mass, time)
    v = p.velocity + dt / 2 * (p.acceleration + a) + dt**2 / 12 * (jerk - j)
    x = p.position + dt / 2 * (p.velocity + v) + dt**2 / 12 * (p.acceleration - a)
    return p.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt), j
