"""The kick-drift-kick leapfrog."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.particles import AccelerationFn, Particles


def leapfrog(
    particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
) -> Particles:
    """One step of size dt: second order, symplectic and reversible at constant dt.

    Costs one evaluation of `acceleration`, since the state carries the one at its own position.
    """
    dt = jnp.asarray(dt, particles.time.dtype)
    time = particles.time + dt
    v_half = particles.velocity + 0.5 * dt * particles.acceleration
    x = particles.position + dt * v_half
    a = acceleration(x, particles.mass, time)
    v = v_half + 0.5 * dt * a
    return particles.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt)
