"""Rollouts with individual steps, in device calls of bounded length, and what they record.

The states at the ends of blocks, where all bodies meet, are kept during a call. Their energies are
measured after it, so that no turn waits for a sum over pairs.

A rollout pauses before the steps that end it, which may be cut short: from there it can go on to
another end as if it had never had this one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, takewhile
from typing import Any, NamedTuple

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
from jaxstepper.stepping.batch import stacked, unstacked
from jaxstepper.stepping.criteria import Criterion
from jaxstepper.stepping.individual import start, state_at, tile_of, towards, turn
from jaxstepper.stepping.individual_state import (
    Individual,
    as_particles,
    due_times,
    in_block,
    is_at_last_step,
    is_running,
)
from jaxstepper.stepping.output import Going, Times
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
from jaxstepper.stepping.watch import Watch, look, watch_of

# Pairs of bodies in the first device call, whose cost is not known yet: some 10 ms on a CPU.
PAIRS_IN_FIRST_CALL = 1_000_000
# Turns in the largest.
MOST_TURNS = 100_000_000

Keep = Callable[[int, Trajectory, Going], None]
Watched = tuple[Individual, Watch]


class Met(NamedTuple):
    """What is known of a rollout where its bodies met, at the ends of blocks.

    Attributes:
        motion: `[M, 2, D, N]`, positions and velocities.
        steps: `[M]`, after how many steps.
    """

    motion: Float[Array, "*B M 2 D N"]
    steps: Int[Array, "*B M"]


class Work(NamedTuple):
    """A rollout within a device call.

    Attributes:
        state: where it stands.
        met: its states at the ends of blocks.
        rows: those at the given times.
        written: `[]`, how many of the times were reached.
        turns: `[]`, how many were taken; states at given times count as many as cost the same.
    """

    state: Individual
    met: Met
    rows: Trajectory | None
    written: Int[Array, "*B"]
    turns: Int[Array, "*B"]


class Looked(NamedTuple):
    """What the host is told of a call.

    Attributes:
        turns: `[]`, how many were taken.
        is_running: `[]`, whether the rollout has not ended.
        pauses: `[]`, whether it is before the steps that end it.
        share: `[]`, that is done.
        kept: `[]`, how many states are.
        rows: `[M, ...]`, states, of which only the first `kept` are filled.
    """

    turns: Int[Array, "*B"]
    is_running: Bool[Array, "*B"]
    pauses: Bool[Array, "*B"]
    share: Float[Array, "*B"]
    kept: Int[Array, "*B"]
    rows: Trajectory | None


def begin_individually(
    criterion: Criterion,
    gravity: Gravity,
    starts: Sequence[Particles],
    end_times: Sequence[float],
    longest: Sequence[float],
) -> list[Going]:
    """Rollouts before their first steps; arguments as those of `roll_out_individually`."""
    particles = stacked(starts)
    ends, steps = (np.asarray(x, particles.time.dtype) for x in (end_times, longest))
    return _goings(starts, _begin(gravity, criterion, particles, ends, steps))


def gone_on(going: Going, end_time: float) -> Going:
    """A rollout on its way to another end."""
    return going._replace(rollout=to_host(_towards(going.rollout, end_time)))


def record_individually(
    mesh: Mesh | None,
    criterion: Criterion,
    gravity: Gravity,
    goings: Sequence[Going],
    keep: Keep | None = None,
    times: Sequence[Times] | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> list[Going]:
    """The rollouts at their ends; their states are handed out on the way.

    Several of equal shapes run as one batch. A CPU takes its systems one after the other. On an
    accelerator they share every turn, of which those that have ended cost their share. Where device
    calls end does not change the results, and neither does output.

    Args:
        mesh: the devices that share the rollouts.
        criterion: chooses the steps of each body.
        gravity: what moves the bodies.
        goings: where each rollout stands.
        keep: gets the number of a system, its states of a device call (`dt` as long as `time`), and
            from where to go on; by default, no states are recorded.
        times: those of the states of each system, in order; by default its first state and the ends
            of blocks, where `dt` is a block.
        report: called after every device call with the share of the work that is done.
    """
    firsts = [each.first for each in goings]
    watched = stacked([each[1:] for each in goings])
    size, in_turn = _rows(watched[0]), jax.default_backend() == "cpu"
    fixed = gravity, size, in_turn, keep is not None, times is not None
    run = each_its_share(mesh, _run, *fixed)
    left = [iter(())] * len(goings) if times is None else list(map(_up_to_end, goings, times))
    waiting = [list(islice(each, size)) for each in left]
    if keep is not None:
        for i, going in enumerate(goings):
            is_fresh = int(going.rollout.steps) == 0
            is_now = waiting[i][:1] == [float(going.first.time)]
            count = int(is_fresh if times is None else is_now)
            keep(i, first_rows(count, row_of(gravity, going.first)), going)
            waiting[i] = waiting[i][is_now:]
    safe, at_end = list(goings), keep is None

    def call(budget: int) -> tuple[int, bool]:
        nonlocal watched, safe, at_end
        asked = np.full((len(goings), size), np.inf, watched[0].begin.dtype)
        for row, some in zip(asked, waiting, strict=True):
            row[: len(some)] = some
        shared = criterion, np.int32(budget), np.bool_(at_end)
        watched, looked = run(shared, (*watched, asked))
        looked = jax.tree.map(np.asarray, to_host(looked))
        if keep is not None:
            if not at_end:
                safe = _goings(firsts, watched)
            for i, count in enumerate(map(int, looked.kept)):
                rows = jax.tree.map(lambda x, i=i: x[i], looked.rows)
                keep(i, first_rows(count, rows), safe[i])
                if times is not None:
                    waiting[i] = waiting[i][count:]
                    waiting[i] += islice(left[i], size - len(waiting[i]))
        report(float(np.mean(looked.share)))
        has_more = np.array([at_end or bool(each) for each in waiting])
        if not np.any(looked.is_running & (has_more | ~looked.pauses)):
            if at_end or not np.any(looked.is_running):
                return int(np.max(looked.turns)), False
            at_end = True
        return int(np.max(looked.turns)), True

    bodies = watched[0].mass.shape[-1]
    pairs_in_turn = len(goings) * bodies * tile_of(bodies)
    in_bounded_calls(call, max(1, PAIRS_IN_FIRST_CALL // pairs_in_turn), MOST_TURNS)
    return _goings(firsts, watched)


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
    """Rollouts to their ends, as `record_individually` has them, with their states in memory.

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
    goings = begin_individually(criterion, gravity, starts, end_times, longest)
    pieces: list[list[Trajectory]] = [[] for _ in starts]

    def add(i: int, rows: Trajectory, _: Going) -> None:
        pieces[i].append(rows)

    ended = record_individually(
        mesh, criterion, gravity, goings, add if keep else None, report=report
    )
    paths = [joined(each) for each in pieces] if keep else []
    return [each[1:] for each in ended], paths


@partial(jax.jit, static_argnums=0)
def _begin(
    gravity: Gravity, criterion: Criterion, particles: Particles, ends: Array, longest: Array
) -> Watched:
    def of_one(particles: Particles, end: Array, longest: Array) -> Watched:
        begin = start(criterion, gravity, particles, end, longest)
        return begin, watch_of(gravity, particles)

    return jax.vmap(of_one)(particles, ends, longest)


_towards = jax.jit(towards)


def _goings(firsts: Sequence[Particles], watched: Watched) -> list[Going]:
    """The rollouts of a batch, one by one on the host."""
    return [Going(first, *each) for first, each in zip(firsts, unstacked(watched), strict=True)]


def _up_to_end(going: Going, times: Times) -> Times:
    end, way = going.rollout.end, np.sign(going.rollout.length)
    return takewhile(lambda time: way * np.asarray(time, end.dtype) <= way * end, times)


def _rows(state: Individual) -> int:
    """How many states of each system a call keeps."""
    numbers = max(1, 2 * state.predicted.size)
    return max(1, min(MOST_STEPS_PER_CALL, MOST_NUMBERS_PER_CALL // numbers))


def _run(
    gravity: Gravity,
    size: int,
    in_turn: bool,
    keep: bool,
    at_times: bool,
    shared: tuple[Criterion, Int[Array, ""], Bool[Array, ""]],
    batch: tuple[Individual, Watch, Float[Array, "B M"]],
) -> tuple[Watched, Looked]:
    criterion, num_turns, to_the_end = shared
    bodies = batch[0].mass.shape[-1]
    # The cost of a state at a given time: an evaluation of all bodies, and their energy.
    turns_per_state = max(1, bodies // tile_of(bodies))

    def begun(state: Individual) -> Work:
        motion = jnp.zeros((size, *state.motion[:2].shape), state.motion.dtype)
        met = Met(motion, jnp.zeros((size,), jnp.int32))
        none = jnp.zeros((), jnp.int32)
        rows = buffer(gravity, as_particles(state, motion[0], none), size) if at_times else None
        return Work(state, met, rows, none, none)

    def is_due(work: Work, times: Array) -> Array:
        """Whether a state at a given time is next."""
        if not at_times:
            return jnp.asarray(False)
        time = times[jnp.minimum(work.written, size - 1)]
        reached = jnp.min(due_times(work.state)) >= in_block(work.state, time)
        waits = (work.written < size) & jnp.isfinite(time) & reached
        return waits & is_running(work.state) & (work.turns < num_turns)

    def may_go_on(work: Work, times: Array, begin: Array) -> Array:
        state = work.state
        has_room = (state.block - begin < size) & (work.written < size)
        pauses = is_at_last_step(state) & ~to_the_end
        goes_on = is_running(state) & (work.turns < num_turns) & has_room & ~pauses
        return goes_on & ~is_due(work, times)

    def one_turn(work: Work, times: Array, begin: Array) -> Work:
        state, met = work.state, work.met
        going = may_go_on(work, times, begin)
        new = turn(criterion, gravity, state, going)
        # Beyond the last row, writing has no effect.
        row = jnp.where(new.block > state.block, state.block - begin, size)
        motion = met.motion.at[row].set(new.motion[:2], mode="drop")
        steps = met.steps.at[row].set(new.steps, mode="drop")
        return work._replace(state=new, met=Met(motion, steps), turns=work.turns + going)

    def write(work: Work, times: Array) -> Work:
        due = is_due(work, times)
        there = state_at(gravity, work.state, times[jnp.minimum(work.written, size - 1)])
        row = jnp.where(due, work.written, size)
        rows = jax.tree.map(
            lambda all_, x: all_.at[row].set(x, mode="drop"), work.rows, snapshot(gravity, there)
        )
        turns = work.turns + due * turns_per_state
        return work._replace(rows=rows, written=work.written + due, turns=turns)

    def after(work: Work, watch: Watch, begin: Array) -> tuple[Watched, Looked]:
        state, met = work.state, work.met
        blocks = state.block - begin

        def met_at(row: Array) -> Particles:
            return as_particles(state, met.motion[row], begin + row + 1)

        def seen(row: Array, watch: Watch) -> Watch:
            return look(gravity, watch, met_at(row), met.steps[row])

        def kept(row: Array, rows: Trajectory) -> Trajectory:
            new = snapshot(gravity, met_at(row))
            return jax.tree.map(lambda all_, x: all_.at[row].set(x), rows, new)

        watch = lax.fori_loop(0, blocks, seen, watch)
        rows = work.rows
        if keep and not at_times:
            rows = buffer(gravity, met_at(jnp.zeros((), jnp.int32)), size)
            rows = lax.fori_loop(0, blocks, kept, rows)
        looked = Looked(
            work.turns,
            is_running(state),
            is_at_last_step(state),
            _share_done(state),
            work.written if at_times else blocks,
            rows,
        )
        return (state, watch), looked

    def roll(each: Callable[..., Any], batch: Any) -> tuple[Watched, Looked]:
        """A batch, or one system, for which `each` is nothing."""
        states, watches, times = batch
        begin = states.block

        def taken(works: Work) -> Work:
            # A loop of its own: that of `vmap` would copy all states in every turn.
            return lax.while_loop(
                lambda works: jnp.any(each(may_go_on)(works, times, begin)),
                lambda works: each(one_turn)(works, times, begin),
                works,
            )

        def taken_and_written(works: Work) -> Work:
            works = taken(works)
            due = jnp.any(each(is_due)(works, times))
            return lax.cond(due, lambda: each(write)(works, times), lambda: works)

        def goes_on(works: Work) -> Array:
            return jnp.any(each(is_due)(works, times) | each(may_go_on)(works, times, begin))

        works = each(begun)(states)
        works = lax.while_loop(goes_on, taken_and_written, works) if at_times else taken(works)
        return each(after)(works, watches, begin)

    if in_turn:
        return lax.map(lambda one: roll(lambda function: function, one), batch)
    return roll(jax.vmap, batch)


def _share_done(state: Individual) -> Float[Array, ""]:
    done = (state.block + state.now) / jnp.maximum(state.blocks, 1)
    return jnp.where(is_running(state), done, 1.0).astype(state.now.dtype)
