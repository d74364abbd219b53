"""Rollouts with individual steps, in device calls of bounded length, and what they record.

The states at the ends of blocks, where all bodies meet, are kept during a call. Their energies are
measured after it, so that no turn waits for a sum over pairs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.machine.devices import each_its_share
from jaxstepper.machine.processes import to_host
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.criteria import Criterion
from jaxstepper.stepping.individual import start, turn
from jaxstepper.stepping.individual_state import Individual, as_particles, is_running
from jaxstepper.stepping.recording import (
    MOST_NUMBERS_PER_CALL,
    MOST_STEPS_PER_CALL,
    Trajectory,
    first_rows,
    joined,
    snapshot,
)
from jaxstepper.stepping.watch import Watch, look, watch_of

# Turns in the first device call, whose cost is not known yet, and in the largest.
FIRST_TURNS, MOST_TURNS = 1, 100_000_000


class Met(NamedTuple):
    """What is known of a rollout where its bodies met, at the ends of blocks.

    Attributes:
        motion: `[M, 2, D, N]`, positions and velocities.
        steps: `[M]`, after how many steps.
    """

    motion: Float[Array, "*B M 2 D N"]
    steps: Int[Array, "*B M"]


Shared = tuple[Criterion, Int[Array, ""]]
Watched = tuple[Individual, Watch]


class Looked(NamedTuple):
    """What the host is told of a call.

    Attributes:
        turns: `[]`, how many were taken.
        goes_on: `[]`, whether the rollout does.
        share: `[]`, that is done.
        states: `[M, ...]`, those at the ends of blocks, of which only the first are filled.
    """

    turns: Int[Array, "*B"]
    goes_on: Bool[Array, "*B"]
    share: Float[Array, "*B"]
    states: Trajectory | None


def roll_out_individually(
    mesh: Mesh | None,
    criterion: Criterion,
    gravity: Gravity,
    starts: Sequence[Particles],
    end_times: Sequence[float],
    longest: Sequence[float],
    report: Callable[[float], None] = lambda share: None,
    keep: bool = False,
) -> tuple[list[Watched], list[Trajectory]]:
    """Rollouts to their ends; several of equal shapes run as one batch.

    A CPU takes the systems of a batch one after the other. On an accelerator they share every
    turn, of which those that have ended cost their share.

    Args:
        mesh: the devices that share the rollouts.
        criterion: chooses the steps of each body.
        gravity: what moves the bodies.
        starts: where each begins.
        end_times: where each ends.
        longest: the longest step of a body in each.
        report: called after every device call with the share of the work that is done.
        keep: whether to record the states at the ends of blocks.

    Returns:
        Every rollout at its end, and its energy errors at the ends of blocks, on the host. With
        `keep`, its recorded states, of which the first is its start; otherwise none.
    """
    particles = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    dtype = particles.time.dtype
    ends, steps = (np.asarray(x, dtype) for x in (end_times, longest))
    watched = _begin(gravity, criterion, particles, ends, steps)
    rows = _rows(watched[0])
    run = each_its_share(mesh, partial(_run, gravity, rows, keep))
    kept: list[list[Trajectory]] = [[] for _ in starts] if keep else []

    def call(budget: int) -> tuple[int, bool]:
        nonlocal watched
        begun = to_host(watched[0].block)
        watched, looked = run((criterion, np.int32(budget)), watched)
        blocks, looked = to_host((watched[0].block - begun, looked))
        for i, pieces in enumerate(kept):
            states = jax.tree.map(lambda x, i=i: x[i], looked.states)
            pieces.append(first_rows(int(blocks[i]), states))
        report(float(np.mean(looked.share)))
        return int(np.max(looked.turns)), bool(np.any(looked.goes_on))

    in_bounded_calls(call, FIRST_TURNS, MOST_TURNS)
    watched = to_host(watched)
    ended = [jax.tree.map(lambda x, i=i: x[i], watched) for i in range(len(starts))]
    firsts = [snapshot(gravity, first) for first in starts] if keep else []
    paths = [joined(first, pieces) for first, pieces in zip(firsts, kept, strict=True)]
    return ended, paths


@partial(jax.jit, static_argnums=0)
def _begin(
    gravity: Gravity, criterion: Criterion, particles: Particles, ends: Array, longest: Array
) -> Watched:
    def of_one(particles: Particles, end: Array, longest: Array) -> Watched:
        begin = start(criterion, gravity, particles, end, longest)
        return begin, watch_of(gravity, particles)

    return jax.vmap(of_one)(particles, ends, longest)


def _rows(state: Individual) -> int:
    """How many states of each system a call keeps."""
    numbers = max(1, state.predicted.size)
    most = min(MOST_STEPS_PER_CALL, MOST_NUMBERS_PER_CALL // numbers, int(jnp.max(state.blocks)))
    return max(1, most)


def _run(
    gravity: Gravity, rows: int, keep: bool, shared: Shared, batch: Watched
) -> tuple[Watched, Looked]:
    criterion, num_turns = shared
    states, watches = batch

    def empty(state: Individual) -> Met:
        motion = jnp.zeros((rows, *state.motion[:2].shape), state.motion.dtype)
        return Met(motion, jnp.zeros((rows,), jnp.int32))

    def may_go_on(state: Individual, begin: Array, turns: Array) -> Array:
        return is_running(state) & (turns < num_turns) & (state.block - begin < rows)

    def one_turn(
        state: Individual, met: Met, begin: Array, turns: Array
    ) -> tuple[Individual, Met, Array, Array]:
        going = may_go_on(state, begin, turns)
        new = turn(criterion, gravity, state, going)
        # Beyond the last row, writing has no effect.
        row = jnp.where(new.block > state.block, state.block - begin, rows)
        motion = met.motion.at[row].set(new.motion[:2], mode="drop")
        steps = met.steps.at[row].set(new.steps, mode="drop")
        return new, Met(motion, steps), begin, turns + going

    def after(
        state: Individual, watch: Watch, met: Met, begin: Array, turns: Array
    ) -> tuple[Watched, Looked]:
        def state_at(row: Array) -> Particles:
            return as_particles(state, met.motion[row], begin + row + 1)

        def seen(row: Array, watch: Watch) -> Watch:
            return look(gravity, watch, state_at(row), met.steps[row])

        watch = lax.fori_loop(0, state.block - begin, seen, watch)
        path = lax.map(lambda row: snapshot(gravity, state_at(row)), jnp.arange(rows))
        looked = Looked(turns, is_running(state), _share_done(state), path if keep else None)
        return (state, watch), looked

    def alone(state: Individual, watch: Watch) -> tuple[Watched, Looked]:
        carry = (state, empty(state), state.block, jnp.zeros((), jnp.int32))
        carry = lax.while_loop(lambda c: may_go_on(c[0], c[2], c[3]), lambda c: one_turn(*c), carry)
        return after(carry[0], watch, *carry[1:])

    if jax.default_backend() == "cpu":
        return lax.map(lambda one: alone(*one), (states, watches))
    # In a loop of its own: that of `vmap` would copy the states of all systems in every turn.
    carry = (states, jax.vmap(empty)(states), states.block, jnp.zeros_like(states.block))
    carry = lax.while_loop(
        lambda c: jnp.any(jax.vmap(may_go_on)(c[0], c[2], c[3])),
        lambda c: jax.vmap(one_turn)(*c),
        carry,
    )
    return jax.vmap(after)(carry[0], watches, *carry[1:])


def _share_done(state: Individual) -> Float[Array, ""]:
    done = (state.block + state.now) / jnp.maximum(state.blocks, 1)
    return jnp.where(is_running(state), done, 1.0).astype(state.now.dtype)
