"""The picture of how a run was trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.pictures.figures import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    label_powers,
    legend_above,
    new_figure,
    positive,
    save,
)
from jaxstepper.runs import checkpoints
from jaxstepper.settings.config import Config
from jaxstepper.settings.stored import from_dict

FEW_EPOCHS = 40

Metrics = Mapping[str, np.ndarray]
"""Each metric of a run, `[E]` for E epochs; NaN where an epoch has none."""


def plot_training(run: Path, path: Path, last_epoch: int | None = None) -> None:
    """Draws the metrics of every epoch of a run, which its folder keeps.

    Of two-phase training: energy errors against the band, iterations, dt, and pass rates. Of window
    training: the loss, the work and the error it came to, and how many windows were worth it.

    Args:
        run: its folder.
        path: of the picture; its suffix chooses the format.
        last_epoch: to draw, from 0; else all.

    Raises:
        UserError: the run keeps no metrics or no checkpoint; matplotlib is missing, or the picture
            cannot be written.
    """
    save(training_figure(run, last_epoch), path)


def training_figure(run: Path, last_epoch: int | None = None) -> Any:
    """The figure of `plot_training`."""
    metrics = read_metrics(run / checkpoints.METRICS_FILE, last_epoch)
    config, _ = from_dict(checkpoints.load(run).config)
    figure = new_figure(10, 6.5, layout="constrained")
    figure.suptitle(f"training of {run.name}, {len(metrics['epoch'])} epochs")
    panels = figure.subplots(2, 2, sharex=True)
    draw = _draw_windows if "relative_work" in metrics else _draw_two_phases
    draw(panels.flat, metrics, config)
    for axes in panels.flat:
        axes.grid(color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        if axes.get_legend_handles_labels()[0]:
            legend_above(axes)
        label_powers(axes.yaxis)
    for axes in panels[1]:
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def read_metrics(path: Path, last_epoch: int | None = None) -> Metrics:
    """The metrics in a file of one JSON object a line; a line that is cut short is left out.

    Raises:
        UserError: there is no such file, or no epoch in it.
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
    """The numbers of a line; empty if it is none of an epoch."""
    try:
        values = json.loads(line)
        numbers = {n: np.nan if value is None else float(value) for n, value in values.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return numbers if "epoch" in numbers else {}


def _draw_two_phases(panels: Any, metrics: Metrics, config: Config) -> None:
    errors, iterations, steps, rates = panels
    epoch = metrics["epoch"]

    def values(name: str) -> np.ndarray:
        return metrics.get(name, np.full(len(epoch), np.nan))

    retrained = values("mean_retrain_iterations") > 0
    replayed = values("skipped") == 0
    errors.axhspan(config.E_lower, config.E_upper, color=PALE, label="band")
    threshold = {"color": GREY, "linestyle": ":"}
    errors.axhline(config.energy_threshold, **threshold, label="accepted below")
    _range(errors, epoch, values("min_energy_error"), values("max_energy_error"))
    _line(errors, epoch, values("mean_energy_error"), BLUE, "accepted steps")
    failed = np.where(retrained, values("max_retrain_rel_dE"), np.nan)
    errors.plot(epoch, positive(failed), "x", color=ORANGE, markersize=4, label="worst attempt")
    errors.set(yscale="log", ylabel="|ΔE / E| of a trial step")

    _range(iterations, epoch, np.zeros(len(epoch)), values("max_retrain_iterations"))
    _line(iterations, epoch, values("mean_retrain_iterations"), BLUE, "retraining: mean")
    highest = values("max_retrain_iterations")
    iterations.plot(epoch, highest, color=BLUE, linewidth=0.6, label="largest of a step")
    replay = np.where(replayed, values("iterations"), np.nan)
    _line(iterations, epoch, replay, ORANGE, "phase 2", linestyle="--")
    iterations.set_yscale("symlog", linthresh=1)
    iterations.set(ylabel="iterations", ylim=(-0.1, None))

    _range(steps, epoch, values("min_dt"), values("max_dt"))
    _line(steps, epoch, positive(values("min_dt")), BLUE, "smallest")
    _line(steps, epoch, positive(values("max_dt")), ORANGE, "largest", linestyle="--")
    steps.set(yscale="log", ylabel="dt of accepted steps (G = 1)")

    accepted = 100 / (1 + values("mean_retrain_iterations"))
    _line(rates, epoch, accepted, BLUE, "accepted in phase 1")
    passed = np.where(replayed, 100 * values("final_pass_rate"), np.nan)
    _line(rates, epoch, passed, ORANGE, "pass after phase 2", linestyle="--")
    rates.set(ylabel="rate (%)", ylim=(-4, 104))


def _draw_windows(panels: Any, metrics: Metrics, config: Config) -> None:
    losses, work, errors, windows = panels
    epoch = metrics["epoch"]
    # The numbers of an epoch of imitation are of no window.
    imitated = epoch < config.imitation_epochs
    if np.any(imitated):
        _line(losses, epoch, np.where(imitated, metrics["loss"], np.nan), ORANGE, "of imitation")
        _line(losses, epoch, np.where(imitated, np.nan, metrics["loss"]), BLUE, "of windows")
    else:
        _line(losses, epoch, metrics["loss"], BLUE)
    losses.set(ylabel="loss")

    relative = np.where(imitated, np.nan, metrics["relative_work"])
    work.axhline(1, color=GREY, linestyle=":", label="free fall, symmetrised")
    _line(work, epoch, relative, BLUE, "this rule")
    work.set(ylabel="steps at equal error,\nrelative to free fall")

    ratio = np.where(imitated, np.nan, metrics["error_ratio"])
    errors.axhline(1, color=GREY, linestyle=":", label="the tolerance")
    _line(errors, epoch, ratio, BLUE, "this rule")
    errors.set(ylabel="largest |E / E0 - 1| of a window,\nrelative to the tolerance")

    count = config.window_batch * config.window_iterations
    covered = np.where(imitated, np.nan, 100 * metrics["covered"])
    _line(windows, epoch, covered, BLUE, "covered")
    skipped = 100 * metrics["skipped"] / count
    _line(windows, epoch, skipped, ORANGE, "skipped, gradient not finite", linestyle="--")
    windows.set(ylabel="share of the windows (%)", ylim=(-4, 104))


def _line(
    axes: Any, x: np.ndarray, y: np.ndarray, colour: str, label: str = "", **style: Any
) -> None:
    """A line, with markers where it has few points."""
    marker, width = ("o", 1.5) if len(x) <= FEW_EPOCHS else ("", 1.0)
    style = {
        "marker": marker,
        "markersize": 3,
        "linewidth": width,
        "color": colour,
        "label": label,
        **style,
    }
    axes.plot(x, y, **style)


def _range(axes: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The room between the smallest and the largest."""
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
