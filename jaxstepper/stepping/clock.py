"""The clock of a rollout: a sum of steps that loses none of them, in either direction.

A float32 clock at t = 2100 resolves 2.4e-4, so steps of 1e-4 would vanish. What each addition
rounds off is therefore carried along and added to the next step.
Source: Kahan 1965; the exact error of a sum is that of Knuth, TAOCP 2, 4.2.2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.status import NOT_FINITE, RUNNING, STALLED

# A step that is a smaller share of the whole time leads nowhere.
LEAST_SHARE = 1e-24

# Far from the origin, positions may not resolve such short steps. After so many in a row that moved
# no body, none will; bodies that start at rest take a few until they are fast enough to be seen.
MOST_STILL = 100_000

Time = Float[Array, ""] | float


class Clock(NamedTuple):
    """What a rollout knows of its time beside `particles.time`.

    Attributes:
        begin: `[]`, the time at which it began.
        lost: `[]`, what rounding took from `particles.time`, to be added to it.
        rest: `[]`, what rounding took from `lost`; without it, 1e8 steps in float32 lose one.
        still: `[]`, how many of the last steps in a row moved no body, though some had velocities.
    """

    begin: Float[Array, ""]
    lost: Float[Array, ""]
    rest: Float[Array, ""]
    still: Int[Array, ""]


def tick(clock: Clock, before: Particles, after: Particles) -> tuple[Clock, Particles]:
    """The clock and the particles after a step, whose time is the compensated sum of all steps."""
    time, moved = before.time, after.time - before.time
    # A step that a user's scheme did not note in dt can only be seen in the time.
    rounding = 2 * jnp.finfo(time.dtype).eps * jnp.maximum(jnp.abs(time), jnp.abs(after.time))
    step = jnp.where(jnp.abs(after.dt - moved) <= rounding, after.dt, moved)
    step, low = two_sum(step, clock.lost)
    total, lost = two_sum(time, step)
    lost, rest = two_sum(lost, clock.rest + low)
    lost, rest = lax.stop_gradient((lost, rest))
    moves = jnp.any(after.position != before.position) | jnp.all(before.velocity == 0)
    still = jnp.where(moves, 0, clock.still + 1)
    return Clock(clock.begin, lost, rest, still), after.replace(time=total)


def two_sum(a: Float[Array, ""], b: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum as it is rounded, and what rounding took from it, exactly."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def direction(clock: Clock, end: Time) -> Float[Array, ""]:
    """1 where time runs forwards to its end, -1 where it runs backwards, `[]`."""
    return jnp.where(end < clock.begin, -1.0, 1.0).astype(clock.begin.dtype)


def time_left(clock: Clock, time: Float[Array, ""], end: Time) -> Float[Array, ""]:
    """How long it is to the end, `[]`; negative beyond it."""
    return direction(clock, end) * ((end - time) - clock.lost)


def is_before(clock: Clock, particles: Particles, end: Time) -> Bool[Array, ""]:
    """Whether the end is yet to come, up to the rounding of times and steps.

    The tolerance is less than half a step, so that no whole step is left out.
    """
    eps = 8 * jnp.finfo(particles.time.dtype).eps
    rounding = eps * jnp.maximum(jnp.abs(jnp.asarray(end)), jnp.abs(clock.begin))
    tolerance = jnp.minimum(rounding, 0.5 * jnp.abs(particles.dt))
    return time_left(clock, particles.time, end) > tolerance


def judge(
    clock: Clock, time: Float[Array, ""], wanted: Float[Array, ""], left: Float[Array, ""]
) -> Int[Array, ""]:
    """The status of a rollout whose rule wants this step, `[]`.

    It has stalled if the step is not above a share of the time behind it or before it: the share
    that a number and what rounding took from it resolve in float32, and 1e-24 in float64, which is
    the step of bodies as close as their positions can tell.

    Args:
        clock: the clock.
        time: the time now.
        wanted: the step.
        left: the time before it; 0 if that is not known, or does not end the rollout.
    """
    resolved = max(float(jnp.finfo(time.dtype).eps) ** 2, LEAST_SHARE)
    too_short = wanted <= resolved * jnp.maximum(jnp.abs(time - clock.begin), left)
    failure = jnp.where(too_short, STALLED, RUNNING)
    return jnp.where(jnp.isnan(wanted), NOT_FINITE, failure).astype(jnp.int32)


def started(time: Float[Array, ""]) -> Clock:
    """A clock that begins at this time."""
    zero = jnp.zeros_like(time)
    return Clock(time, zero, zero, jnp.zeros((), jnp.int32))
