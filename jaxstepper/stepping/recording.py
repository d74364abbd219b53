"""Rollouts that keep every state on the way, in numpy on the host."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    advance,
    is_running,
    share_done,
    start,
    with_status,
)
from jaxstepper.stepping.rule import Rule

# A device call records at most this many steps, and at most this many numbers.
MOST_STEPS_PER_CALL = 1024
MOST_NUMBERS_PER_CALL = 2**24


class Trajectory(NamedTuple):
    """A recorded rollout of S steps.

    Attributes:
        time: `[S + 1]`.
        dt: `[S]`.
        position: `[S + 1, N, D]`.
        velocity: `[S + 1, N, D]`.
        energy: `[S + 1]`.
    """

    time: np.ndarray
    dt: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    energy: np.ndarray


def record(
    rule: Rule,
    gravity: Gravity,
    particles: Particles,
    limits: Limits,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Rollout, Trajectory]:
    """A rollout up to the limits, with every state on the way.

    It runs in device calls of bounded length and memory; where they end does not change the result.

    Args:
        rule: the step-size rule.
        gravity: what moves the bodies.
        particles: the first state.
        limits: where the rollout ends.
        report: called after every device call with the share of the rollout that is done.

    Raises:
        UserError: the rule cannot step these bodies.
    """
    rule.check_masses(np.asarray(particles.mass))
    rollout = _start(rule, gravity, particles, limits.time)
    pieces = [row_of(gravity, rollout.particles)]
    size = min(MOST_STEPS_PER_CALL, max(1, MOST_NUMBERS_PER_CALL // (2 * particles.position.size)))

    def call(budget: int) -> tuple[int, bool]:
        nonlocal rollout
        before = int(rollout.steps)
        rollout, states = _record_some(rule, gravity, rollout, limits, budget, size)
        taken = int(rollout.steps) - before
        pieces.append(first_rows(taken, states))
        report(float(share_done(rollout, limits)))
        return taken, bool(is_running(rollout, limits))

    if is_running(rollout, limits):
        in_bounded_calls(call, 1, size)
    return with_status(rollout, limits), joined(pieces)


def snapshot(gravity: Gravity, particles: Particles) -> Trajectory:
    """A state as a row of a trajectory, on the device."""
    p = particles
    return Trajectory(p.time, p.dt, p.position, p.velocity, total_energy(p, gravity))  # type: ignore[arg-type]


def row_of(gravity: Gravity, particles: Particles) -> Trajectory:
    """A state as the only row of a trajectory, on the host."""
    return jax.tree.map(lambda x: np.asarray(x)[None], snapshot(gravity, particles))


def buffer(gravity: Gravity, particles: Particles, size: int) -> Trajectory:
    """Rows for so many states like this one, on the device."""
    shapes = jax.eval_shape(partial(snapshot, gravity), particles)
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)


def first_rows(count: int, states: Trajectory) -> Trajectory:
    """Copies of the first rows, on the host, so that the rest of the arrays can be freed."""
    return jax.tree.map(lambda x: np.array(np.asarray(x)[:count]), states)


def joined(pieces: Sequence[Trajectory]) -> Trajectory:
    """The trajectory of some rows, to the first of which no step led."""
    states = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    return states._replace(dt=states.dt[1:])


_start = jax.jit(start, static_argnums=1)


@partial(jax.jit, static_argnames=("gravity", "size"))
def _record_some(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
    size: int,
) -> tuple[Rollout, Trajectory]:
    """Up to `num_steps` <= `size` steps, and a buffer `[size]` that begins with their states."""
    before = rollout.steps

    def running(carry: tuple[Rollout, Trajectory]) -> Array:
        return is_running(carry[0], limits) & (carry[0].steps - before < num_steps)

    def body(carry: tuple[Rollout, Trajectory]) -> tuple[Rollout, Trajectory]:
        rollout, states = carry
        new = advance(rule, gravity, rollout, limits)
        row = rollout.steps - before
        kept = jax.tree.map(
            lambda all_, x: all_.at[row].set(x), states, snapshot(gravity, new.particles)
        )
        return new, kept

    empty = buffer(gravity, rollout.particles, size)
    return lax.while_loop(running, body, (rollout, empty))
