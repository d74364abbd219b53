"""The state of bodies with individual steps, and how it is read."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.hermite import Motion, predict
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.status import RUNNING

# The counter of evaluations has two parts, the lower of so many bits.
LOWER_BITS = 30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Individual:
    """N bodies in D dimensions, each at a time of its own.

    Times and steps of bodies are fractions of a block, whose length is the longest step.

    Attributes:
        mass: `[N]`.
        motion: `[4, D, N]`: position, velocity, acceleration and jerk at each body's own time.
        own_time: `[N]`, in the present block.
        step: `[N]`, each a power of two.
        predicted: `[C, N]`, the C = 2 D components of positions and velocities at `now`.
        now: `[]`, the time of the last evaluation, in the present block.
        begin: `[]`, the time at which the rollout began.
        end: `[]`, the time at which it ends.
        length: `[]`, that of a block; negative where time runs backwards.
        block: `[]`, the number of blocks behind.
        blocks: `[]`, the number of blocks in all.
        last: `[]`, how much of the last block is before the end, in (0, 1].
        steps: `[]`, the number of times at which bodies were evaluated, after the first.
        evaluated: `[2]`, how many bodies were evaluated in all; `evaluations` reads it.
        status: `[]`, one of the codes of `status`; the first failure stays.
    """

    mass: Float[Array, "*B N"]
    motion: Float[Array, "*B 4 D N"]
    own_time: Float[Array, "*B N"]
    step: Float[Array, "*B N"]
    predicted: Float[Array, "*B C N"]
    now: Float[Array, "*B"]
    begin: Float[Array, "*B"]
    end: Float[Array, "*B"]
    length: Float[Array, "*B"]
    block: Int[Array, "*B"]
    blocks: Int[Array, "*B"]
    last: Float[Array, "*B"]
    steps: Int[Array, "*B"]
    evaluated: Int[Array, "*B 2"]
    status: Int[Array, "*B"]

    def replace(self, **changes: Any) -> "Individual":
        """A copy with some fields changed."""
        return replace(self, **changes)


def is_running(state: Individual) -> Bool[Array, ""]:
    """Whether the end is not reached, and no step has failed."""
    return state.status == RUNNING


def due_times(state: Individual) -> Float[Array, " N"]:
    """When each body is due next, in the present block; beyond its end for those that are there."""
    due, last = state.own_time + state.step, block_end(state)
    return jnp.where(state.own_time < last, jnp.minimum(due, last), due)


def block_end(state: Individual) -> Float[Array, ""]:
    """Where the present block ends: at 1, or before, where the rollout does."""
    return jnp.where(state.block == state.blocks - 1, state.last, 1)


def is_at_last_step(state: Individual) -> Bool[Array, ""]:
    """Whether the next steps are those that end the rollout, and may be cut short for it."""
    return (state.block == state.blocks - 1) & (jnp.min(due_times(state)) >= state.last)


def in_block(state: Individual, time: Float[Array, ""] | float) -> Float[Array, ""]:
    """A time up to the end as a fraction of a block, since the present one began."""
    return jnp.minimum(_since_block(state, time), state.blocks - 1 + state.last - state.block)


def evaluations(state: Individual) -> int:
    """How many bodies were evaluated, the first of all included; times N, that counts pairs."""
    upper, lower = (int(part) for part in state.evaluated)
    return (upper << LOWER_BITS) + lower


def at_common_time(state: Individual) -> Particles:
    """The bodies where they last met: at the end, the rollout's last state."""
    return as_particles(state, state.motion, state.block)


def at_time(state: Individual, time: Float[Array, ""] | float) -> Particles:
    """The bodies at a time close to their own, by prediction; the error of a step h goes as h^4."""
    h = state.length * (_since_block(state, time) - state.own_time)
    before = Motion(*state.motion)
    x, v = predict(before, h)
    moved = jnp.stack((x, v, before.acceleration + h * before.jerk, before.jerk))
    return as_particles(state, moved, state.block).replace(time=jnp.asarray(time, x.dtype))


def where_it_stopped(state: Individual) -> Particles:
    """The bodies at the last time at which some were evaluated, of a rollout that failed there."""
    fraction = state.block.astype(state.begin.dtype) + state.now
    return at_time(state, state.begin + state.length * fraction)


def as_particles(
    state: Individual, motion: Float[Array, "F D N"], block: Int[Array, ""]
) -> Particles:
    """A state from rows of `motion` at the end of a block."""
    time = state.begin + state.length * block.astype(state.begin.dtype)
    acceleration = motion[2] if len(motion) > 2 else jnp.zeros_like(motion[0])
    return Particles(
        mass=state.mass,
        position=motion[0].T,
        velocity=motion[1].T,
        acceleration=acceleration.T,
        time=jnp.where(block == state.blocks, state.end, time),
        dt=jnp.where(block > 0, state.length, 0),
    )


def _since_block(state: Individual, time: Float[Array, ""] | float) -> Float[Array, ""]:
    # Where a rollout has ended, its last block may be a part of one.
    behind = jnp.minimum(state.block, state.blocks - 1 + state.last)
    return (time - state.begin) / state.length - behind
