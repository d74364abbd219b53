"""The progress bars of training."""

from collections.abc import Mapping
from typing import Any

from jaxstepper.reporting.bars import Bars
from jaxstepper.training.objective import Objective

EPOCHS = "epochs"


class TrainingBars:
    """A bar for the epochs, and one below it for an epoch that takes several device calls."""

    def __init__(self, bars: Bars, objective: Objective, done: int, epochs: int) -> None:
        self._bars, self._objective, self._epochs = bars, objective, epochs
        self._done, self._figures, self._below = done, "", ""
        bars.show(EPOCHS, done, epochs, "compiling")

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Shows that an epoch has ended."""
        self._figures = self._objective.figures(metrics)
        self._bars.show(EPOCHS, metrics["epoch"] + 1, self._epochs, self._figures)

    def call(self, state: Any) -> None:
        """Shows that a device call has ended. All processes must call it, for they share states."""
        done = int(state.epoch)
        part = self._objective.part(state) if done == self._done else None
        if self._below and (part is None or part.name != self._below):
            self._bars.hide(self._below)
        self._done, self._below = done, "" if part is None else part.name
        if part is not None:
            self._bars.show(EPOCHS, done, self._epochs, self._figures)
            self._bars.show(*part)
