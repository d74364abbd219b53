"""Hermite's interpolation of a motion between two times at which force and jerk are known.

It predicts a motion from one time, corrects it by the force and jerk at the next, and knows the
second and third derivatives of the force there. Arrays are of any equal shape; h broadcasts.
Source: Makino & Aarseth 1992.
"""

from typing import NamedTuple

from jaxtyping import Array, Float


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
    """The motion a time h after `before`, given force and jerk there; fourth order."""
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
