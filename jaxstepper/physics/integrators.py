"""The kick-drift-kick leapfrog, and that of the logarithmic Hamiltonian."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.diagnostics import kinetic_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import AccelerationFn, Particles


def leapfrog(
    particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
) -> Particles:
    """One step of size dt: second order, symplectic and reversible at constant dt.

    It evaluates `acceleration` once, since the state carries the value at its own position.
    """
    dt = jnp.asarray(dt, particles.time.dtype)
    time = particles.time + dt
    v_half = particles.velocity + 0.5 * dt * particles.acceleration
    x = particles.position + dt * v_half
    a = acceleration(x, particles.mass, time)
    v = v_half + 0.5 * dt * a
    return particles.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt)


def logarithmic_leapfrog(
    particles: Particles,
    dt: Float[Array, ""] | float,
    binding: Float[Array, ""],
    gravity: Gravity,
) -> Particles:
    """One drift-kick-drift step of the logarithmic Hamiltonian log(T + B) - log U.

    With h the step of the transformed time, drifts last h / (T + B) and the kick h / U, where T is
    the kinetic energy, -U the potential energy and B = -(T - U) at the start. Two bodies stay on
    their exact orbit, with an error in phase only. Accelerations are evaluated once, in the middle
    of the step; the state that is returned carries those, not the ones at its own position.
    Source: Mikkola & Tanikawa 1999; Preto & Tremaine 1999.

    Args:
        particles: the state.
        dt: h / (T + B) at that state: the length of the step if the speeds did not change.
        binding: B.
        gravity: the force.
    """
    p = particles
    drift = 0.5 * jnp.asarray(dt, p.time.dtype)
    h = 2 * drift * (kinetic_energy(p) + binding)
    x, time = p.position + drift * p.velocity, p.time + drift
    a = gravity.acceleration(x, p.mass, time)
    v = p.velocity - h / gravity.potential_energy(x, p.mass, time) * a
    end = p.replace(velocity=v, acceleration=a)
    second = 0.5 * h / (kinetic_energy(end) + binding)
    return end.replace(position=x + second * v, time=time + second, dt=drift + second)
