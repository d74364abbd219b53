"""Progress bars on standard error."""

import sys
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jaxstepper.machine.processes import is_main

REFRESHES_PER_SECOND = 4
# The time left is estimated from the speed in the last seconds.
SECONDS_OF_SPEED = 300.0


class Bars:
    """Progress bars, each with a line of figures below it; there are none without a console.

    Lines printed on the terminal appear above them.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = None if console is None else _WithFigures(console)
        self._tasks: dict[str, TaskID] = {}

    @property
    def are_shown(self) -> bool:
        """Whether there is a console."""
        return self._progress is not None

    def __enter__(self) -> "Bars":
        if self._progress is not None:
            self._progress.start()
            # Otherwise a killed process would leave the terminal without a cursor.
            self._progress.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the bars; may be called from any thread, and more than once."""
        if self._progress is not None:
            self._progress.stop()

    def show(self, name: str, done: int, total: int | None, figures: str = "") -> None:
        """Sets the bar of this name, a new one if need be; `figures` is the line below it."""
        count = f"{done}" if total is None else f"{done}/{total}"
        self._set(name, done, total, count, figures)

    def show_share(self, name: str, share: float, figures: str = "") -> None:
        """As `show`, for a share of work that is done."""
        self._set(name, share, 1, f"{share:.0%}", figures)

    def hide(self, name: str) -> None:
        """Removes the bar of this name, if it exists."""
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def _set(self, name: str, done: float, total: float | None, count: str, figures: str) -> None:
        if self._progress is None:
            return
        if name not in self._tasks:
            # Work done before does not count for the speed.
            self._tasks[name] = self._progress.add_task(
                name, total=total, completed=int(done), count=count, figures=figures
            )
        task = self._tasks[name]
        self._progress.update(task, completed=done, count=count, figures=figures)


def open_bars(quiet: bool = False) -> Bars:
    """Bars on standard error, if that is a terminal and nothing asks for quiet."""
    if quiet or not is_main() or not sys.stderr.isatty():
        return Bars()
    console = Console(stderr=True)
    return Bars(console if console.is_interactive else None)


def part_of(report: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    """Reports progress in one of `count` equal parts as progress of the whole."""
    return lambda share: report((index + share) / count)


class _WithFigures(Progress):
    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=REFRESHES_PER_SECOND,
            speed_estimate_period=SECONDS_OF_SPEED,
            transient=True,
            # Output that goes elsewhere must not appear on the terminal.
            redirect_stdout=sys.stdout.isatty(),
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["figures"]:
                yield Text("  " + task.fields["figures"], no_wrap=True, overflow="ellipsis")
