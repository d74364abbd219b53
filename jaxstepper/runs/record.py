"""The record of a training: the metrics of every epoch, and their targets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.runs import checkpoints, folders
from jaxstepper.settings.stored import from_dict

Metrics = Mapping[str, np.ndarray]
"""Each metric of a run, `[E]` for E epochs; NaN where an epoch has none."""


@dataclass(frozen=True)
class Record:
    """The training of a run.

    Attributes:
        objective: its name on the command line; "" for a program's own.
        metrics: those of every epoch.
        band: the energy errors that training aims for, from lower to upper edge.
        threshold: the relative energy error below which a step is accepted.
        imitation_epochs: the epochs at the start that imitate the free-fall rule.
        windows: the number of windows in an epoch.
    """

    objective: str
    metrics: Metrics
    band: tuple[float, float]
    threshold: float
    imitation_epochs: int
    windows: int


def read_record(run: Path, last_epoch: int | None = None) -> Record:
    """Reads the record of a run in a folder, up to an epoch (from 0) or to the end.

    Raises:
        UserError: the run keeps no metrics or no checkpoint.
    """
    metrics = read_metrics(run / folders.METRICS_FILE, last_epoch)
    checkpoint = checkpoints.load(run)
    config, _ = from_dict(checkpoint.config)
    return Record(
        objective="" if "own_objective" in checkpoint.about else config.objective,
        metrics=metrics,
        band=(config.E_lower, config.E_upper),
        threshold=config.energy_threshold,
        imitation_epochs=config.imitation_epochs,
        windows=config.window_batch * config.window_iterations,
    )


def read_metrics(path: Path, last_epoch: int | None = None) -> Metrics:
    """Reads metrics from a file with a JSON object on each line; skips lines that are cut short.

    Raises:
        UserError: there is no such file, or it holds no epoch.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); train writes it, import does not"
        ) from error
    epochs = [each for each in map(_as_metrics, lines) if each]
    if last_epoch is not None:
        epochs = [each for each in epochs if each["epoch"] <= last_epoch]
    if not epochs:
        raise UserError(f"{path}: holds no metrics of an epoch")
    return {name: np.array([each.get(name, np.nan) for each in epochs]) for name in epochs[-1]}


def _as_metrics(line: str) -> dict[str, float]:
    """The numbers on a line; empty if the line is not one of an epoch."""
    try:
        values = json.loads(line)
        numbers = {n: np.nan if value is None else float(value) for n, value in values.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return numbers if "epoch" in numbers else {}
