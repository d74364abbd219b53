"""Rollouts whose states are handed out as they come, so that memory does not grow with them.

A state at a given time is one that a step, cut short, reaches from the path; the path itself goes
on with whole steps, as it would without output. What a rollout needs to go on later is the state
before its last step, since that one may have been cut short to end on time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.errors import require
from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.clock import is_before
from jaxstepper.stepping.recording import (
    MOST_NUMBERS_PER_CALL,
    MOST_STEPS_PER_CALL,
    Trajectory,
    buffer,
    first_rows,
    joined,
    row_of,
    snapshot,
)
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    advance,
    has_failed,
    is_running,
    share_done,
    start,
    with_status,
)
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.watch import EVERY_STEP_UP_TO, STEPS_BETWEEN, Watch, look, watch_of

# Steps in a device call that keeps none of them.
MOST_STEPS_BETWEEN = 100_000_000


class Going(NamedTuple):
    """A rollout on its way, with all that is needed to go on with it.

    Attributes:
        first: the state in which it began.
        rollout: where it stands: a `Rollout`, or an `Individual` where steps are individual.
        watch: the energy errors so far.
    """

    first: Particles
    rollout: Any
    watch: Watch


class Pair(NamedTuple):
    """A rollout and its watch before its last step and after it."""

    before: tuple[Rollout, Watch]
    after: tuple[Rollout, Watch]


_start = jax.jit(start, static_argnums=1)

Times = Iterator[float]
# Of a time that is a multiple, so that the last one is not beyond the end.
ROUNDING = 1e-14
Count = Int[Array, ""] | int


def begin(rule: Rule, gravity: Gravity, particles: Particles, limits: Limits) -> Going:
    """A rollout before its first step.

    Raises:
        UserError: the rule cannot step these bodies.
    """
    rule.check_masses(np.asarray(particles.mass))
    rollout = _start(rule, gravity, particles, limits.time)
    return Going(particles, rollout, watch_of(gravity, particles))


def times_every(first: float, between: float, end: float, after: float | None = None) -> Times:
    """Times from `first` on, so far apart, towards the end; only those beyond `after`, if given."""
    way = -1.0 if end < first else 1.0
    begin = 0 if after is None else max(0, int(way * (after - first) / between) - 1)
    exact = (first + way * k * between for k in count(begin))
    times = (end if math.isclose(t, end, rel_tol=ROUNDING) else t for t in exact)
    return times if after is None else (t for t in times if way * t > way * after)


def given_times(
    times: np.ndarray | list[float], first: float, end: float, after: float | None = None
) -> Times:
    """These times in the order in which they come; only those beyond `after`, if given.

    Raises:
        UserError: one of them is before the first state.
    """
    way = -1.0 if end < first else 1.0
    early = [float(t) for t in times if way * t < way * first]
    require(not early, f"output at time {min(early, default=0):g}: the rollout begins at {first:g}")
    ordered = sorted((float(t) for t in times), key=lambda t: way * t)
    return (t for t in ordered if after is None or way * t > way * after)


def chosen_times(
    every: float | None,
    times: Sequence[float] | None,
    first: float,
    end: float,
    after: float | None = None,
) -> Times | None:
    """`times`, or times so far apart, or None for every step; only those beyond `after`, if given.

    Raises:
        UserError: both say when, or a time is before the first state.
    """
    require(every is None or times is None, "every and times both say when; give one of them")
    if times is not None:
        return given_times(list(times), first, end, after)
    return None if every is None else times_every(first, every, end, after)


def record_at(
    rule: Rule,
    gravity: Gravity,
    particles: Particles,
    limits: Limits,
    times: Sequence[float],
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Rollout, Trajectory]:
    """As `recording.record`, with the states at the given times alone."""
    chosen = chosen_times(None, times, float(particles.time), float(limits.time))
    pieces: list[Trajectory] = []

    def keep(rows: Trajectory, _: Going) -> None:
        pieces.append(rows)

    going = begin(rule, gravity, particles, limits)
    end = record_on(rule, gravity, going, limits, keep, chosen, report)
    return end.rollout, joined(pieces)


def record_on(
    rule: Rule,
    gravity: Gravity,
    going: Going,
    limits: Limits,
    keep: Callable[[Trajectory, Going], None],
    times: Times | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> Going:
    """The rollout at its end; its states are handed out on the way, from the first one on.

    It runs in device calls of bounded length and memory; where they end does not change the result.

    Args:
        rule: the step-size rule.
        gravity: what moves the bodies.
        going: where the rollout stands.
        limits: where it ends.
        keep: gets the states of a device call (`dt` as long as `time`), and from where to go on.
        times: those of the states to hand out, in order; by default every step.
        report: called after every device call with the share of the rollout that is done.
    """
    first, rollout, watch = going
    size = MOST_NUMBERS_PER_CALL // (2 * rollout.particles.position.size)
    size = min(MOST_STEPS_PER_CALL, max(1, size))
    pair = Pair((rollout, watch), (rollout, watch))
    at = float(rollout.particles.time)
    waiting: list[float] = [] if times is None else list(islice(times, size))
    is_now = times is None or (bool(waiting) and waiting[0] == at)
    keep(first_rows(int(is_now), row_of(gravity, rollout.particles)), going)
    waiting = waiting[is_now:]
    never = -np.inf if limits.time < rollout.clock.begin else np.inf

    def call(budget: int) -> tuple[int, bool]:
        nonlocal pair, waiting
        before = int(pair.after[0].steps)
        asked = np.full(size, never)
        asked[: len(waiting)] = waiting
        if times is None:
            pair, rows, kept = _steps(rule, gravity, pair, limits, budget, size)
            more = False
        else:
            due = asked.astype(rollout.particles.time.dtype)
            pair, rows, kept, more = _at_times(rule, gravity, pair, limits, due, budget, size)
        now, kept = pair.after[0], int(kept)
        if times is not None:
            waiting = waiting[kept:]
            waiting += islice(times, size - len(waiting))
        keep(first_rows(kept, rows), Going(first, *pair.before))
        report(float(share_done(now, limits)))
        return int(now.steps) - before, bool(is_running(now, limits)) or bool(more)

    if is_running(rollout, limits):
        in_bounded_calls(call, 1, size if times is None else MOST_STEPS_BETWEEN)
    end, watch = pair.after
    return Going(first, with_status(end, limits), watch)


def _step(rule: Rule, gravity: Gravity, pair: Pair, limits: Limits) -> Pair:
    rollout, watch = pair.after
    new = advance(rule, gravity, rollout, limits)

    def seen() -> Watch:
        return look(gravity, watch, new.particles, new.steps)

    if new.particles.mass.shape[0] <= EVERY_STEP_UP_TO:
        return Pair(pair.after, (new, seen()))
    due = (new.steps % STEPS_BETWEEN == 0) | ~is_running(new, limits)
    return Pair(pair.after, (new, lax.cond(due, seen, lambda: watch)))


@partial(jax.jit, static_argnames=("gravity", "size"))
def _steps(
    rule: Rule, gravity: Gravity, pair: Pair, limits: Limits, num_steps: Count, size: int
) -> tuple[Pair, Trajectory, Int[Array, ""]]:
    """Up to `num_steps` <= `size` steps, a buffer that begins with their states, and how many."""
    begin = pair.after[0].steps

    def running(carry: tuple[Pair, Trajectory]) -> Array:
        rollout = carry[0].after[0]
        return is_running(rollout, limits) & (rollout.steps - begin < num_steps)

    def body(carry: tuple[Pair, Trajectory]) -> tuple[Pair, Trajectory]:
        new = _step(rule, gravity, carry[0], limits)
        row = carry[0].after[0].steps - begin
        state = snapshot(gravity, new.after[0].particles)
        return new, jax.tree.map(lambda rows, x: rows.at[row].set(x), carry[1], state)

    rows = buffer(gravity, pair.after[0].particles, size)
    pair, rows = lax.while_loop(running, body, (pair, rows))
    return pair, rows, pair.after[0].steps - begin


@partial(jax.jit, static_argnames=("gravity", "size"))
def _at_times(
    rule: Rule,
    gravity: Gravity,
    pair: Pair,
    limits: Limits,
    times: Float[Array, " T"],
    num_steps: Count,
    size: int,
) -> tuple[Pair, Trajectory, Int[Array, ""], Bool[Array, ""]]:
    """Up to `num_steps` steps; the states at those of the times that they reach, and how many.

    Also whether the steps have gone past the last of the times.
    """
    begin = pair.after[0].steps

    def is_due(pair: Pair, row: Array) -> Array:
        now = pair.after[0]
        time = times[jnp.minimum(row, size - 1)]
        passed = ~is_before(now.clock, now.particles, time) & jnp.isfinite(time)
        return passed & jnp.isfinite(now.particles.time) & ~has_failed(now.status)

    def goes_on(pair: Pair) -> Array:
        now = pair.after[0]
        return is_running(now, limits) & (now.steps - begin < num_steps)

    def running(carry: tuple[Pair, Trajectory, Array]) -> Array:
        pair, _, row = carry
        return (row < size) & (goes_on(pair) | is_due(pair, row))

    def body(carry: tuple[Pair, Trajectory, Array]) -> tuple[Pair, Trajectory, Array]:
        pair, rows, row = carry

        def between(pair: Pair) -> Array:
            return goes_on(pair) & ~is_due(pair, row)

        pair = lax.while_loop(between, lambda pair: _step(rule, gravity, pair, limits), pair)

        def written() -> tuple[Trajectory, Array]:
            reached = advance(rule, gravity, pair.before[0], Limits(times[row])).particles
            state = snapshot(gravity, reached.replace(dt=pair.after[0].particles.dt))
            return jax.tree.map(lambda all_, x: all_.at[row].set(x), rows, state), row + 1

        return pair, *lax.cond(is_due(pair, row), written, lambda: (rows, row))

    carry = (pair, buffer(gravity, pair.after[0].particles, size), jnp.zeros((), jnp.int32))
    pair, rows, row = lax.while_loop(running, body, carry)
    return pair, rows, row, (row >= size) & ~is_running(pair.after[0], limits)
