"""The lines of training on the console: one at every 10th epoch and the last, and a summary."""

from collections.abc import Mapping
from typing import Any, TextIO

from jaxstepper.machine.processes import is_main
from jaxstepper.reporting.note import put
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result

LINE_EVERY = 10


class Console:
    """Prints what an objective says of its epochs."""

    def __init__(self, objective: Objective, epochs: int, stream: TextIO, quiet: bool) -> None:
        self.objective, self.epochs = objective, epochs
        self.stream, self.quiet = stream, quiet

    def print(self, line: str) -> None:
        """Prints a line, unless quiet; the run goes on if it cannot be written."""
        if not self.quiet and is_main():
            put(line, self.stream)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Prints the line of an epoch, if it is due."""
        epoch = metrics["epoch"]
        if epoch % LINE_EVERY == 0 or epoch == self.epochs - 1:
            words, seconds = self.objective.line(metrics), metrics["epoch_time"]
            self.print(f"Epoch {epoch}: {words}, time={seconds:.2f}s")

    def summary(self, result: Result) -> None:
        """Prints the outcomes of training."""
        lines = {"epochs completed": f"{result.epochs}"}
        outcomes = self.objective.summary(result.state, result.metrics)
        of_all = [each for each in outcomes if not each.key.startswith("final/")]
        lines |= {each.label: each.words for each in of_all if each.label}
        lines["total time"] = f"{result.total_time:.2f}s"
        lines |= {each.label: each.words for each in outcomes if each.label}
        self.print("Training summary")
        for label, words in lines.items():
            self.print(f"  {label + ':':<24} {words}")
