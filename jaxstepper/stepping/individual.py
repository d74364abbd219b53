"""Individual steps: Hermite's scheme, in which each body takes steps of its own.

All bodies are predicted to the next time at which some are due; these are evaluated, by the pull of
all, and corrected; a criterion chooses the next step of each. Steps are powers of two of a longest
one (`block_steps`), at whose ends all bodies meet.

The bodies that are due are gathered into a tile of static size, so the work follows their number;
if they are more than a tile holds, it takes several turns. A turn is the same for all systems of a
batch, whatever the number of bodies due in each, so that none waits for another.

Source: Makino & Aarseth 1992.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.hermite_interpolation import Motion, correct, predict, snap_and_crackle
from jaxstepper.physics.jerk import Pull, pull_on
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.block_steps import first_step, least_step, next_step
from jaxstepper.stepping.criteria import Criterion, Derivatives
from jaxstepper.stepping.status import ENDED, NOT_FINITE, RUNNING, STALLED

# Bodies that a CPU evaluates at once, for so many bodies in all (tried: 8 to 64).
TILE, LARGE_TILE, LARGE = 16, 32, 512
# An accelerator needs work for all its threads.
TILE_ON_ACCELERATOR = 256
# Of the counter of evaluations, whose parts would overflow alone.
CARRY = 30
# Differences of accelerations are noise up to so many rounding errors.
NOISE = 4.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Individual:
    """N bodies in D dimensions, each at a time of its own.

    Times and steps of bodies are fractions of the present block, and `block` is the number of those
    that are over.

    Attributes:
        mass: `[N]`.
        motion: `[4, D, N]`: position, velocity, acceleration and jerk at each body's time.
        own_time: `[N]`.
        step: `[N]`, each a power of two.
        predicted: `[2 D, N]`, components of positions and velocities at `now`.
        now: `[]`, the time of the last evaluation.
        begin: `[]`, the time at which the rollout began.
        length: `[]`, that of a block; negative where time runs backwards.
        block: `[]`.
        blocks: `[]`, after how many the rollout ends.
        steps: `[]`, the number of times at which some bodies were evaluated, after the first.
        evaluated: `[2]`, how many bodies were evaluated in all, in parts of `CARRY` bits.
        status: `[]`, one of the codes of `status`; the first failure stays.
    """

    mass: Float[Array, "*B N"]
    motion: Float[Array, "*B 4 D N"]
    own_time: Float[Array, "*B N"]
    step: Float[Array, "*B N"]
    predicted: Float[Array, "*B 2D N"]
    now: Float[Array, "*B"]
    begin: Float[Array, "*B"]
    length: Float[Array, "*B"]
    block: Int[Array, "*B"]
    blocks: Int[Array, "*B"]
    steps: Int[Array, "*B"]
    evaluated: Int[Array, "*B 2"]
    status: Int[Array, "*B"]

    def replace(self, **changes: Any) -> "Individual":
        """A copy with some fields changed."""
        return replace(self, **changes)


def start(
    criterion: Criterion,
    gravity: Gravity,
    particles: Particles,
    end_time: Float[Array, ""] | float,
    longest: Float[Array, ""] | float,
) -> Individual:
    """The bodies before their first steps; their forces are evaluated once.

    Args:
        criterion: chooses the steps.
        gravity: what moves the bodies.
        particles: the first state.
        end_time: where the rollout is to end, exactly; earlier than the state, time runs backwards.
        longest: the longest step of a body, > 0; it is shortened to divide the time to the end.
    """
    p = particles
    dtype = p.time.dtype
    span = jnp.asarray(end_time, dtype) - p.time
    blocks = _whole_blocks(jnp.abs(span) / longest)
    length = span / jnp.maximum(blocks, 1)
    where = jnp.concatenate((p.position.T, p.velocity.T))
    pull = pull_on(gravity, where, where, p.mass, p.time)
    wanted = criterion.first_step(pull.acceleration, pull.jerk) / jnp.abs(length)
    fine = jnp.all(jnp.isfinite(pull.jerk)) & ~jnp.any(jnp.isnan(wanted)) & jnp.isfinite(length)
    count = p.mass.shape[0]
    zero = jnp.zeros((), jnp.int32)
    return Individual(
        mass=p.mass,
        motion=jnp.stack((p.position.T, p.velocity.T, pull.acceleration.T, pull.jerk.T)),
        own_time=jnp.zeros_like(p.mass),
        step=first_step(wanted),
        predicted=where,
        now=jnp.zeros((), dtype),
        begin=p.time,
        length=length,
        block=zero,
        blocks=blocks,
        steps=zero,
        evaluated=jnp.asarray((0, count), jnp.int32),
        status=jnp.where(fine, jnp.where(blocks > 0, RUNNING, ENDED), NOT_FINITE).astype(jnp.int32),
    )


def turn(
    criterion: Criterion,
    gravity: Gravity,
    state: Individual,
    going: Bool[Array, ""] | bool = True,
    tile: int | None = None,
) -> Individual:
    """Evaluates and corrects as many of the bodies due next as a tile holds.

    Args:
        criterion: chooses the next step of each.
        gravity: what moves the bodies.
        state: a running rollout.
        going: if not, the bodies stay as they are.
        tile: how many bodies are evaluated at once; by default what suits the platform.
    """
    count = state.mass.shape[0]
    due = state.own_time + state.step
    now = jnp.min(due)
    predicted, now, is_new = _predicted(state, now)
    time = state.begin + state.length * (state.block.astype(now.dtype) + now)
    is_due = (due == now) & going
    # The largest of ones and zeros; the rest of the tile is filled with bodies that are not due.
    tile = min(count, _tile(count) if tile is None else tile)
    chosen, who = lax.top_k(is_due.astype(jnp.float32), tile)
    is_chosen = chosen > 0
    pull = pull_on(gravity, predicted[:, who], predicted, state.mass, time)
    step = state.step[who]
    before = Motion(*state.motion[:, :, who])
    after = correct(before, pull.acceleration.T, pull.jerk.T, state.length * step)
    wanted = _wanted(criterion, before, after, pull, state.mass[who], state.length * step)
    wanted = wanted / jnp.abs(state.length)
    new_step = next_step(step, wanted, now)
    new = jnp.stack(after)
    # Those that are not due are sent beyond the last body, where writing has no effect.
    to = jnp.where(is_chosen, who, count + jnp.arange(tile))
    write = {"mode": "drop", "unique_indices": True}
    num_due = jnp.sum(is_due, dtype=jnp.int32)
    meet = (now == 1) & (num_due <= tile) & going
    own_time = state.own_time.at[to].set(now, **write)
    block = state.block + meet
    fine = jnp.all(jnp.isfinite(new), axis=(0, 1)) & ~jnp.isnan(wanted)
    status = jnp.where(
        jnp.any(is_chosen & ~fine),
        NOT_FINITE,
        jnp.where(
            jnp.any(is_chosen & (new_step < least_step(now.dtype))),
            STALLED,
            jnp.where(block < state.blocks, RUNNING, ENDED),
        ),
    )
    return state.replace(
        motion=state.motion.at[:, :, to].set(new, **write),
        own_time=jnp.where(meet, 0.0, own_time),
        step=state.step.at[to].set(new_step, **write),
        predicted=predicted,
        now=jnp.where(meet, 0.0, jnp.where(going, now, state.now)),
        block=block,
        steps=state.steps + (is_new & going),
        evaluated=_counted(state.evaluated, jnp.minimum(num_due, tile)),
        status=jnp.where(state.status == RUNNING, status, state.status).astype(jnp.int32),
    )


def _predicted(state: Individual, now: Array) -> tuple[Array, Array, Array]:
    h = state.length * (now - state.own_time)
    is_new = now > state.now
    there = jnp.concatenate(predict(Motion(*state.motion), h))
    return jnp.where(is_new, there, state.predicted), now, is_new


def _wanted(criterion, before, after, pull, mass, h):
    snap, crackle = snap_and_crackle(before, after, h)
    noise = NOISE * jnp.finfo(h.dtype).eps * pull.strength

    def above(z, level):
        return jnp.where(jnp.sum(z * z, 0) > level * level, z, 0.0)

    snap, crackle = above(snap, 6 * noise / h**2), above(crackle, 12 * noise / h**3)
    return criterion.step_size(
        Derivatives(pull.acceleration, pull.jerk, snap.T, crackle.T, mass, jnp.abs(h))
    )


def _whole_blocks(ratio: Array) -> Array:
    return jnp.ceil(ratio * (1 - 4 * jnp.finfo(ratio.dtype).eps)).astype(jnp.int32)


def _counted(evaluated, more):
    low = evaluated[1] + more
    return jnp.stack((evaluated[0] + (low >> CARRY), low & ((1 << CARRY) - 1)))


def _tile(count: int) -> int:
    if jax.default_backend() != "cpu":
        return TILE_ON_ACCELERATOR
    return LARGE_TILE if count >= LARGE else TILE


@partial(jax.jit, static_argnames=("gravity", "tile"))
def run_individually(criterion, gravity, particles, end_time, longest, tile=None):
    begin = start(criterion, gravity, particles, end_time, longest)
    return lax.while_loop(
        lambda s: s.status == RUNNING, lambda s: turn(criterion, gravity, s, True, tile), begin
    )
