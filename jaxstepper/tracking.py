"""What users see of a run: lines on the console, and Weights & Biases."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from jaxstepper.config import Config, to_dict
from jaxstepper.errors import UserError
from jaxstepper.processes import is_main
from jaxstepper.simulate import finite_or_none
from jaxstepper.training import TrainingResult
from jaxstepper.window_training import WindowResult

LINE_EVERY = 10

# Of the metrics of an epoch, what W&B gets, under the torch system's keys.
PART_1 = (
    "trajectory_length",
    "mean_retrain_iterations",
    "max_retrain_iterations",
    "mean_energy_error",
    "min_energy_error",
    "max_energy_error",
    "warmup_discarded",
    "acceptance_rate",
    "mean_retrain_loss",
    "max_retrain_loss",
    "mean_retrain_rel_dE",
    "max_retrain_rel_dE",
)
PART_2 = ("converged", "iterations", "final_pass_rate", "mean_rel_dE", "max_rel_dE")


class Console:
    """The line at every 10th epoch and the last, the summary, and with --debug a line on steps."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        self.epochs = config.epochs
        self.stream = stream
        self.quiet = config.quiet
        self.debug_every = config.debug_every if config.debug else 0

    def print(self, line: str) -> None:
        """A line, unless quiet."""
        if not self.quiet and is_main():
            print(line, file=self.stream, flush=True)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """The line of an epoch, if it is due."""
        epoch = metrics["epoch"]
        is_window = "relative_work" in metrics
        if self.debug_every and epoch % self.debug_every == 0 and not is_window:
            note(debug_line(metrics))
        if epoch % LINE_EVERY and epoch != self.epochs - 1:
            return
        if is_window:
            self.print(window_line(metrics))
            return
        outcome = "converged" if metrics["converged"] else f"max_iter({metrics['iterations']})"
        self.print(
            f"Epoch {epoch}: traj_len={metrics['trajectory_length']}, part2={outcome}, "
            f"time={metrics['epoch_time']:.2f}s"
        )

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


def window_line(metrics: Mapping[str, Any]) -> str:
    """The line of an epoch of window training."""
    return (
        f"Epoch {metrics['epoch']}: loss={metrics['loss']:.4f}, "
        f"work/free_fall={metrics['relative_work']:.3f}, "
        f"error/tolerance={metrics['error_ratio']:.2f}, time={metrics['epoch_time']:.2f}s"
    )


def debug_line(metrics: Mapping[str, Any]) -> str:
    """The steps of an epoch: how often they were retrained, their dt, errors and phase 2."""
    return (
        f"[debug] epoch {metrics['epoch']}: {metrics['total_steps']} steps, retrain iterations "
        f"mean {metrics['mean_retrain_iterations']:.2f}, "
        f"max {metrics['max_retrain_iterations']:.0f}, "
        f"dt {metrics['min_dt']:.3e} to {metrics['max_dt']:.3e}, "
        f"error {metrics['min_energy_error']:.2e} to {metrics['max_energy_error']:.2e}, "
        f"phase 2 {metrics['iterations']} iterations, pass rate {metrics['final_pass_rate']:.1%}"
    )


class MetricsFile:
    """The metrics of every epoch of a run, one JSON object a line, in its folder."""

    def __init__(self, path: Path, epochs_done: int = 0) -> None:
        """Opens the file; lines of epochs that a resumed run does again are taken out."""
        self._path = path
        self._is_full = False
        kept = [line for line in _lines(path) if _epoch_of(line) < epochs_done]
        beside = path.with_suffix(".new")
        beside.write_text("".join(kept))
        beside.replace(path)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Adds an epoch; what cannot be written is told of once."""
        line = json.dumps({name: finite_or_none(value) for name, value in metrics.items()})
        try:
            with self._path.open("a") as file:
                file.write(line + "\n")
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                note(f"{self._path}: cannot be written ({error.strerror}); training goes on")
            self._is_full = True


def _lines(path: Path) -> list[str]:
    """The whole lines of a file, if it is there."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _epoch_of(line: str) -> float:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return math.inf


class WandbRun:
    """A run of Weights & Biases; does nothing when it is off."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    @property
    def id(self) -> str | None:
        """By which a resumed run goes on in the same place."""
        return None if self._run is None else self._run.id

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Logs an epoch of training."""
        self.log(wandb_metrics(metrics))

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs some values."""
        if self._run is not None:
            self._run.log(dict(values))


def wandb_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch under their W&B keys."""
    if "relative_work" in metrics:
        window = {k: v for k, v in metrics.items() if k not in ("epoch", "epoch_time")}
        return {
            "epoch": metrics["epoch"],
            "epoch_time": metrics["epoch_time"],
            **{f"window/{name}": value for name, value in window.items()},
        }
    return {
        "epoch": metrics["epoch"],
        "epoch_time": metrics["epoch_time"],
        **{f"part1/{name}": metrics[name] for name in PART_1},
        **{f"part2/{name}": metrics[name] for name in PART_2},
    }


@contextmanager
def open_wandb(
    config: Config, default_name: str = "runner_train", run_id: str | None = None
) -> Iterator[WandbRun]:
    """A W&B run if the config asks for one; finished on leaving, also when training fails.

    Args:
        config: of the run.
        default_name: where neither --wandb-name nor --save-name says more.
        run_id: of the run to go on with.

    Raises:
        UserError: wandb is not installed, or cannot reach its server.
    """
    if not (config.wandb and is_main()):
        yield WandbRun()
        return
    try:
        import wandb  # 1.5 s, so only when it is asked for
    except ImportError as error:
        raise UserError("--wandb: the package is missing; pip install wandb") from error
    try:
        run = wandb.init(
            project=config.wandb_project,
            name=config.wandb_name or config.save_name or default_name,
            config=to_dict(config),
            id=run_id,
            resume="allow",
            settings=wandb.Settings(init_timeout=30, silent=True),
        )
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"--wandb: cannot start a run ({reason}); set WANDB_MODE=offline to log without a "
            "network, or log in with: wandb login"
        ) from error
    try:
        yield WandbRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def note(message: str, quiet: bool = False) -> None:
    """A line on standard error."""
    if not quiet and is_main():
        print(message, file=sys.stderr, flush=True)
