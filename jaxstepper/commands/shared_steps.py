"""What `simulate` does where all bodies of a system share their steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxstepper.commands.outcome import Outcome, Outcomes, words_of_many
from jaxstepper.commands.output_size import check_size
from jaxstepper.commands.recording_words import about
from jaxstepper.commands.restart import Source
from jaxstepper.machine.devices import choose_mesh, everywhere
from jaxstepper.machine.memory import GIGABYTE
from jaxstepper.machine.processes import is_main, on_main
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.bars import open_bars, part_of
from jaxstepper.reporting.note import note
from jaxstepper.runs.recordings import Writer, going_from, open_writer
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping.many_rollouts import roll_out
from jaxstepper.stepping.output import (
    Going,
    Times,
    begin,
    given_times,
    record_on,
    times_every,
)
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    blown_up_at,
    force_evaluations,
)
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.watch import Watch


class Plan(NamedTuple):
    """Rollouts to be made.

    Attributes:
        request: of the command.
        gravity: what moves the bodies.
        rule: the step-size rule.
        starts: where each begins.
        limits: where each ends.
        names: of the bodies, or ().
        source: the recording that they go on with, if any.
    """

    request: Request
    gravity: Gravity
    rule: Rule
    starts: list[Particles]
    limits: list[Limits]
    names: tuple[str, ...]
    source: Source | None

    @property
    def config(self) -> Config:
        """The options."""
        return self.request.config


def take_shared_steps(plan: Plan) -> Outcomes:
    """Rolls out the rule of the plan, and writes what is asked for.

    Raises:
        UserError: the rule cannot step the bodies, or a file cannot be written.
    """
    config, rule, gravity, starts = plan.config, plan.rule, plan.gravity, plan.starts
    on_main(partial(check_size, config, rule, plan.limits))
    with open_bars(config.quiet) as bars:
        tell = partial(bars.show_share, words_of_many(starts))
        tell(0.0)
        paths: list[Trajectory] = []
        if config.output is not None or config.movie or plan.source is not None:
            with _writer(plan) as writer:
                ended = [
                    _record(plan, i, writer, paths, part_of(tell, i, len(starts)))
                    for i in range(len(starts))
                ]
            firsts = [each.first for each in ended]
            ends = [(each.rollout, each.watch) for each in ended]
        else:
            mesh, firsts = choose_mesh(len(starts)), starts
            ends = roll_out(mesh, rule, gravity, starts, plan.limits, tell)

    def outcome(first: Particles, end: Rollout, watch: Watch) -> Outcome:
        steps, searched = int(end.steps), int(rule.scheme.searched(end.carried))
        return Outcome(
            first,
            end.particles,
            steps,
            int(end.status),
            force_evaluations(rule, steps, searched),
            watch,
            partial(blown_up_at, rule, gravity, first, steps),
        )

    return [outcome(first, *end) for first, end in zip(firsts, ends, strict=True)], paths


@contextmanager
def _writer(plan: Plan) -> Iterator[Writer | None]:
    """The writer of --output in the main process, if one is asked for."""
    output = plan.config.output
    if output is None or not is_main():
        yield None
        return
    masses = np.stack([np.asarray(each.mass) for each in plan.starts])
    try:
        with open_writer(Path(output), masses, plan.names, about(plan.request)) as writer:
            yield writer
    except KeyboardInterrupt:
        note(f"{output} holds the states so far; --restart {output} goes on with them")
        raise


def _record(
    plan: Plan,
    i: int,
    writer: Writer | None,
    paths: list[Trajectory],
    tell: Callable[[float], None],
) -> Going:
    """Rolls out one system, writes its states as they come, and keeps them for a movie."""
    config, limits = plan.config, plan.limits[i]
    going = begin(plan.rule, plan.gravity, plan.starts[i], limits)
    after = None
    if plan.source is not None:
        found = plan.source.recording
        going = everywhere(going_from(found.going[i], going, f"--restart {plan.source.path}"))
        written = np.atleast_2d(found.arrays["time"])[i]
        written = written[np.isfinite(written)]
        after = float(written[-1]) if written.size else None
    kept: list[Trajectory] = []
    size = 0

    def keep(rows: Trajectory, going: Going) -> None:
        nonlocal size
        if config.movie and i == 0:
            kept.append(rows)
        if writer is None:
            return
        writer.rows(i, rows, going)
        before, size = size, size + sum(each.nbytes for each in rows)
        if before < GIGABYTE <= size and not _is_size_known(plan):
            note(
                f"--output {config.output}: a gigabyte so far; --output-every T writes less",
                quiet=config.quiet,
            )

    end = record_on(
        plan.rule, plan.gravity, going, limits, keep, _times(config, going, limits, after), tell
    )
    if kept:
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *kept)
        paths.append(whole._replace(dt=whole.dt[1:]))
    return end


def _is_size_known(plan: Plan) -> bool:
    """Whether `check_size` has said it."""
    config = plan.config
    return config.output_every is not None or config.output_times is not None


def _times(config: Config, going: Going, limits: Limits, after: float | None) -> Times | None:
    """The times of the states to write; None for all steps."""
    first, end = float(going.first.time), float(limits.time)
    if config.output is None and not config.movie:
        return iter(())
    if config.output_times is not None:
        return given_times(list(config.output_times), first, end, after)
    if config.output_every is not None:
        return times_every(first, config.output_every, end, after)
    return None
