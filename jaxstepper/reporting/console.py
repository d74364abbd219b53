"""Lines for users: notes on standard error, and those of training."""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from jaxstepper.machine.processes import is_main
from jaxstepper.training.two_phase.run import TrainingResult
from jaxstepper.training.windows.run import WindowResult

LINE_EVERY = 10


def note(message: str, quiet: bool = False) -> None:
    """A line on standard error."""
    if not quiet and is_main():
        print(message, file=sys.stderr, flush=True)


class Console:
    """The line at every 10th epoch and the last, and the summary."""

    def __init__(self, epochs: int, stream: TextIO, quiet: bool) -> None:
        self.epochs, self.stream, self.quiet = epochs, stream, quiet

    def print(self, line: str) -> None:
        """A line, unless quiet."""
        if not self.quiet and is_main():
            print(line, file=self.stream, flush=True)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """The line of an epoch, if it is due."""
        epoch = metrics["epoch"]
        if epoch % LINE_EVERY == 0 or epoch == self.epochs - 1:
            self.print(epoch_line(metrics))

    def summary(self, result: TrainingResult | WindowResult) -> None:
        """What training came to."""
        last = result.metrics
        self.print("Training summary")
        self.print(f"  epochs completed:        {result.epochs}")
        if isinstance(result, TrainingResult):
            self.print(f"  convergence rate:        {result.convergence_rate:.1%}")
        self.print(f"  total time:              {result.total_time:.2f}s")
        if last and isinstance(result, WindowResult):
            self.print(f"  final work / free fall's: {last['relative_work']:.3f}")
        elif last:
            self.print(f"  final trajectory length: {last['trajectory_length']}")
            self.print(f"  final pass rate:         {last['final_pass_rate']:.1%}")


def is_of_windows(metrics: Mapping[str, Any]) -> bool:
    """Whether these are the metrics of an epoch of window training."""
    return "relative_work" in metrics


def epoch_line(metrics: Mapping[str, Any]) -> str:
    """The line of an epoch."""
    epoch, seconds = metrics["epoch"], metrics["epoch_time"]
    if is_of_windows(metrics):
        return f"Epoch {epoch}: {window_figures(metrics)}, time={seconds:.2f}s"
    outcome = "converged" if metrics["converged"] else f"max_iter({metrics['iterations']})"
    return (
        f"Epoch {epoch}: traj_len={metrics['trajectory_length']}, part2={outcome}, "
        f"time={seconds:.2f}s"
    )


def window_figures(metrics: Mapping[str, Any]) -> str:
    """What an epoch of window training came to."""
    return (
        f"loss={metrics['loss']:.4f}, work/free_fall={metrics['relative_work']:.3f}, "
        f"error/tolerance={metrics['error_ratio']:.2f}"
    )
