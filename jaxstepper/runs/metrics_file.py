"""The metrics of every epoch of a run, in a file of its folder."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxstepper.physics.conservation import finite_or_none


class MetricsFile:
    """The metrics of every epoch of a run, as a JSON object a line."""

    def __init__(self, path: Path, epochs_done: int = 0) -> None:
        """Opens the file; drops the lines of epochs that a resumed run repeats."""
        self._path = path
        self._waiting: list[str] = []
        kept = [line for line in _lines(path) if _epoch_of(line) < epochs_done]
        beside = path.with_suffix(".new")
        beside.write_text("".join(kept))
        beside.replace(path)
        self._size = path.stat().st_size

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Adds an epoch, and those before it that could not be written; warns of the first."""
        line = json.dumps({name: finite_or_none(value) for name, value in metrics.items()})
        self._waiting.append(line + "\n")
        try:
            with self._path.open("r+b") as file:
                # A disk that was full may have taken a part of a line.
                file.truncate(self._size)
                file.seek(self._size)
                size = self._size + file.write("".join(self._waiting).encode())
            self._size, self._waiting = size, []
        except OSError as error:
            if len(self._waiting) == 1:
                warnings.warn(
                    f"{self._path}: cannot be written ({error.strerror}); training goes on",
                    stacklevel=2,
                )


def _lines(path: Path) -> list[str]:
    """The complete lines of a file, if it exists."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _epoch_of(line: str) -> float:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return math.inf
