"""Hermite's fourth-order scheme: it predicts a motion, and corrects it by the force at its end.

Both are Hermite's interpolation of the motion between two times at which force and jerk are known,
which also knows the second and third derivatives of the force. Source: Makino & Aarseth 1992.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.particles import Particles


class Motion(NamedTuple):
    """Position, velocity, acceleration and jerk of bodies, of equal shape."""

    position: Float[Array, "..."]
    velocity: Float[Array, "..."]
    acceleration: Float[Array, "..."]
    jerk: Float[Array, "..."]


def predict(
    motion: Motion, h: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Position and velocity a time h later, by Taylor series up to the jerk."""
    x, v, a, j = motion
    return x + h * (v + h / 2 * (a + h / 3 * j)), v + h * (a + h / 2 * j)


def correct(
    before: Motion,
    acceleration: Float[Array, "..."],
    jerk: Float[Array, "..."],
    h: Float[Array, "..."],
) -> Motion:
    """The motion a time h after `before`, given the force and jerk there."""
    x, v, a, j = before
    v_new = v + h / 2 * (a + acceleration) + h**2 / 12 * (j - jerk)
    x_new = x + h / 2 * (v + v_new) + h**2 / 12 * (a - acceleration)
    return Motion(x_new, v_new, acceleration, jerk)


def snap_and_crackle(
    before: Motion, after: Motion, h: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Second and third derivative of the acceleration at the end of a step h."""
    change = before.acceleration - after.acceleration
    crackle = (12 * change + 6 * h * (before.jerk + after.jerk)) / h**3
    snap = (-6 * change - 2 * h * (2 * before.jerk + after.jerk)) / h**2
    return snap + h * crackle, crackle


def hermite(
    particles: Particles, jerk: Float[Array, "N D"], dt: Float[Array, ""] | float, gravity: Gravity
) -> tuple[Particles, Float[Array, "N D"]]:
    """One step of size dt, and the jerks after it.

    It evaluates accelerations and jerks once, at the predicted state, whose they stay.

    Args:
        particles: the state.
        jerk: `[N, D]`, da/dt at the state.
        dt: `[]`.
        gravity: the force.
    """
    p, dt = particles, jnp.asarray(dt, particles.time.dtype)
    before = Motion(p.position, p.velocity, p.acceleration, jerk)
    time = p.time + dt
    a, j = acceleration_and_jerk(gravity, *predict(before, dt), p.mass, time)
    x, v, a, j = correct(before, a, j, dt)
    return p.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt), j
