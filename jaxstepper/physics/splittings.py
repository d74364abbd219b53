"""Symmetric splittings of fourth order: kicks and drifts in turn. Units: G = 1.

At constant dt they are symplectic and reversible. Each begins and ends with a kick, so that the
acceleration of its last stage, which the state carries, serves the next step.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.particles import AccelerationFn, Particles

# Half of the kicks and of the drifts; the other half mirrors them.
# Source: Blanes & Moan 2002, table 3, SRKN b, order 4 with six stages.
_KICKS = (0.0829844064174052, 0.396309801498368, -0.0390563049223486)
_DRIFTS = (0.245298957184271, 0.604872665711080)
_MIDDLE_KICK = 1 - 2 * sum(_KICKS)
_MIDDLE_DRIFT = 0.5 - sum(_DRIFTS)
BM4_KICKS = (*_KICKS, _MIDDLE_KICK, *reversed(_KICKS))
BM4_DRIFTS = (*_DRIFTS, _MIDDLE_DRIFT, _MIDDLE_DRIFT, *reversed(_DRIFTS))


def blanes_moan(
    particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
) -> Particles:
    """One step of size dt of BM4, the Runge-Kutta-Nystrom splitting of Blanes & Moan 2002.

    It evaluates `acceleration` six times, and its error is the smallest at small steps.
    """
    p, dt = particles, jnp.asarray(dt, particles.time.dtype)
    x, a, time = p.position, p.acceleration, p.time
    v = p.velocity + BM4_KICKS[0] * dt * a
    for drift, kick in zip(BM4_DRIFTS, BM4_KICKS[1:], strict=True):
        x, time = x + drift * dt * v, time + drift * dt
        a = acceleration(x, p.mass, time)
        v = v + kick * dt * a
    return p.replace(position=x, velocity=v, acceleration=a, time=p.time + dt, dt=dt)


def chin(
    particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
) -> Particles:
    """One step of size dt of Chin's forward splitting 4A: kicks of 1/6, 2/3 and 1/6.

    The kick in the middle takes the gradient of the force along, which needs no derivative: it is
    the force where all bodies are moved by dt^2 / 24 times their acceleration. No stage goes
    backwards, so it stays accurate at large steps. It evaluates `acceleration` three times.
    Source: Chin & Chen 2002; Omelyan, Mryglod & Folk 2003.
    """
    p, dt = particles, jnp.asarray(dt, particles.time.dtype)
    v = p.velocity + dt / 6 * p.acceleration
    x, middle = p.position + dt / 2 * v, p.time + dt / 2
    a = acceleration(x, p.mass, middle)
    v = v + dt * (2 / 3) * acceleration(x + dt**2 / 24 * a, p.mass, middle)
    x, time = x + dt / 2 * v, p.time + dt
    a = acceleration(x, p.mass, time)
    v = v + dt / 6 * a
    return p.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt)
