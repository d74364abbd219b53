"""Writes and deletes the checkpoints of a run while it trains, and copes with a full disk."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.machine.processes import from_main, is_main, try_on_main
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.checkpoints import first_line
from jaxstepper.runs.folders import is_partial, paths_of
from jaxstepper.runs.metrics_file import MetricsFile
from jaxstepper.runs.seal import Damaged


@dataclass
class RunWriter:
    """Writes the checkpoints of one run, one after the other, in the background.

    All processes of a run call it alike; the main process writes. A checkpoint that cannot be
    written causes a warning and no loss: older ones are deleted only after a newer one has been
    read back and found intact.

    Attributes:
        run: the folder of the run.
        initial_conditions: the tables `[B, N, 1 + 2 D]` that it started from.
        config: its flat config.
        about: other notes in a checkpoint; JSON values.
        keep: how many of the newest checkpoints to keep, besides the best; None keeps all.
        minutes: the longest time between two checkpoints; see `is_due`.
        newest: the newest checkpoint known to exist.
        problem: why the last checkpoint could not be written; empty if it was.
    """

    run: Path
    initial_conditions: np.ndarray
    config: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)
    keep: int | None = None
    minutes: float = np.inf
    newest: Path | None = None
    problem: str = ""
    _wait: Callable[[], None] | None = None
    _path: Path | None = None
    _state: Any = None
    _last: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Whether more than `minutes` have passed since the last checkpoint."""
        is_due = time.monotonic() - self._last > 60 * self.minutes
        return bool(from_main(is_due))

    def holds(self, state: Any) -> bool:
        """Whether `state` is what was saved last."""
        return state is self._state

    def save_epoch(self, epoch: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Starts writing the state at the end of an epoch."""
        self._save(self.run / str(epoch), state, metrics)

    def save_partial(self, epoch: int, state: Any, metrics: Mapping[str, Any]) -> None:
        """Starts writing the state in the middle of an epoch."""
        self.finish()
        parts = [path.name.split(".")[1] for path in self.run.glob(f"{epoch}.*")]
        number = 1 + max((int(part) for part in parts if part.isdecimal()), default=0)
        self._save(self.run / f"{epoch}.{from_main(number)}", state, metrics)

    def _save(self, path: Path, state: Any, metrics: Mapping[str, Any]) -> None:
        self.finish()
        self._last, self._path, self._state = time.monotonic(), path, state
        try:
            # If there is one, it is damaged, and training has resumed from an older one.
            try_on_main(lambda: folders.delete(path) if path.exists() else None)
            self._wait = checkpoints.write(
                path,
                state,
                self.initial_conditions,
                config=self.config,
                metrics=metrics,
                about=self.about,
            )
        except Exception as error:  # as in `checkpoints.read`
            self._fail(error)

    def finish(self) -> None:
        """Waits for the checkpoint that is being written."""
        if self._wait is None:
            return
        wait, self._wait = self._wait, None
        try:
            wait()
        except Exception as error:
            self._fail(error)
            return
        self.newest, self.problem = self._path, ""
        self._prune()

    def _fail(self, error: Exception) -> None:
        if is_main():
            folders.remove_unfinished(self.run)
        self.problem = first_line(error)
        warnings.warn(f"{self._path}: could not be saved ({self.problem})", stacklevel=2)

    def _prune(self) -> None:
        """Deletes checkpoints that are no longer needed, if the newest is intact."""
        if not is_main():
            return
        paths = paths_of(self.run)
        doomed = unwanted(paths, self.keep) if self.keep else superseded(paths)
        if not doomed:
            return
        try:
            checkpoints.read(paths[-1])
            for path in doomed:
                folders.delete(path)
        except (Damaged, OSError) as error:
            warnings.warn(f"{paths[-1]}: {error}; older checkpoints are kept", stacklevel=2)


def superseded(paths: list[Path]) -> list[Path]:
    """The partial checkpoints of a sorted list, except the newest."""
    return [path for path in paths[:-1] if is_partial(path)]


def unwanted(paths: list[Path], keep: int) -> list[Path]:
    """The checkpoints of a sorted list, except the newest `keep` and the best."""
    rest = [path for path in paths if path not in superseded(paths)]
    kept = [*rest[-keep:], *best(rest)]
    return [path for path in paths if path not in kept]


def best(paths: list[Path]) -> list[Path]:
    """The checkpoint with the highest pass rate, the newest of equals; a list of one or none."""
    rates: dict[Path, float] = {}
    for path in paths:
        try:
            rates[path] = checkpoints.metrics_of(path).get("final_pass_rate", -1.0)
        except Damaged:
            continue
    return [max(reversed(rates), key=rates.__getitem__)] if rates else []


def save_run(
    folder: Path,
    state: Any,
    initial_conditions: np.ndarray,
    history: Sequence[Mapping[str, Any]],
    *,
    config: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Writes a run that has ended: its last state, and the metrics of its epochs, at least one."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics_file = MetricsFile(folder / folders.METRICS_FILE)
    for metrics in history:
        metrics_file.epoch(metrics)
    path = folder / str(history[-1]["epoch"])
    checkpoints.write(
        path, state, initial_conditions, config=config, metrics=history[-1], about=about
    )()
