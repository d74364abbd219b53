"""Where the states of rollouts go: to the file of --output as they come, and to a movie."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxstepper.commands.recording_words import about
from jaxstepper.commands.restart import Source
from jaxstepper.commands.signals import stop_on_signal
from jaxstepper.machine.devices import everywhere
from jaxstepper.machine.memory import GIGABYTE
from jaxstepper.machine.processes import any_of, is_main, meet
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.note import note
from jaxstepper.runs.recordings import Writer, going_from, open_writer
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping.output import Going, Times, chosen_times
from jaxstepper.stepping.recording import Trajectory, first_rows, joined, row_of
from jaxstepper.stepping.rollout import Limits

Report = Callable[[float], None]


class Plan(NamedTuple):
    """Rollouts to be made.

    Attributes:
        request: of the command.
        gravity: what moves the bodies.
        starts: where each begins.
        limits: where each ends.
        names: of the bodies, or ().
        source: the recording that they go on with, if any.
    """

    request: Request
    gravity: Gravity
    starts: list[Particles]
    limits: list[Limits]
    names: tuple[str, ...]
    source: Source | None

    @property
    def config(self) -> Config:
        """The options."""
        return self.request.config

    @property
    def is_recorded(self) -> bool:
        """Whether states go anywhere, or rollouts go on from a file."""
        return self.config.output is not None or self.config.movie or self.source is not None

    @property
    def spans(self) -> list[float]:
        """How long each takes, in its own time; infinite for those that steps end."""
        return [abs(float(limit.time) - self.config.start_time) for limit in self.limits]

    def times(self, system: int) -> Times | None:
        """The times of the states of a system that are recorded; None for all steps."""
        config = self.config
        if config.output is None and not config.movie:
            return iter(())
        first, end = config.start_time, float(self.limits[system].time)
        after = None if self.source is None else self.source.recording.after(system)
        return chosen_times(config.output_every, config.output_times, first, end, after)

    def going(self, system: int, like: Going) -> Going:
        """Where a rollout stands that begins as `like`: there, or where the recording has it."""
        if self.source is None:
            return like
        leaves = self.source.recording.going[system]
        return everywhere(going_from(leaves, like, f"--restart {self.source.path}"))


class Recorder:
    """Takes the states of rollouts.

    Attributes:
        report: to be called after every device call, when its states are taken; stops the rollouts
            if a signal has asked for it.
    """

    def __init__(self, plan: Plan, writer: Writer | None, report: Report) -> None:
        self.report = report
        self._plan, self._writer = plan, writer
        self._kept: list[Trajectory] = []
        self._size = 0

    def begin(self, goings: list[Going]) -> None:
        """Writes from where each rollout can go on, should it not get any further."""
        for system, going in enumerate(goings):
            rows = row_of(self._plan.gravity, going.first)
            self.keep(system, first_rows(0, rows), going)

    def keep(self, system: int, rows: Trajectory, going: Going) -> None:
        """Takes states of a system, and from where it can go on."""
        config = self._plan.config
        if config.movie and system == 0:
            self._kept.append(rows)
        if self._writer is None:
            return
        self._writer.rows(system, rows, going)
        before, self._size = self._size, self._size + sum(each.nbytes for each in rows)
        known = config.individual or config.output_every or config.output_times
        if before < GIGABYTE <= self._size and not known:
            note(
                f"--output {config.output}: a gigabyte so far; --output-every T writes less",
                quiet=config.quiet,
            )

    def paths(self) -> list[Trajectory]:
        """The states of the first system, for a movie."""
        return [joined(self._kept)] if self._kept else []


@contextmanager
def open_recorder(plan: Plan, report: Report, at_once: Callable[[], None]) -> Iterator[Recorder]:
    """A recorder, whose file is complete when the context ends, by a signal too.

    Args:
        plan: the rollouts.
        report: called after every device call with the share of the work that is done.
        at_once: called by a second signal, before it ends the process.
    """
    output = plan.config.output
    if output is None:
        yield Recorder(plan, None, report)
        return
    masses = np.stack([np.asarray(each.mass) for each in plan.starts])
    file = open_writer(Path(output), masses, plan.names, about(plan.request)) if is_main() else None
    try:
        with stop_on_signal(at_once) as stopped, file or nullcontext() as writer:

            def report_and_stop(share: float) -> None:
                report(share)
                number = stopped()
                if any_of(number > 0):
                    raise KeyboardInterrupt(number) if number else KeyboardInterrupt

            yield Recorder(plan, writer, report_and_stop)
    except KeyboardInterrupt:
        note(f"{output} holds the states so far; --restart {output} goes on with them")
        meet()  # the others would end the main process, which writes
        raise
