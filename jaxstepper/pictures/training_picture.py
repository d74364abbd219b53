"""The picture of a run's training."""

from pathlib import Path
from typing import Any

import numpy as np

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
from jaxstepper.runs.record import Record, read_record

FEW_EPOCHS = 40


def plot_training(run: Path, path: Path, last_epoch: int | None = None) -> None:
    """Draws the metrics of every epoch of a run.

    Two-phase training: energy errors and their band, iterations, dt, and pass rates. Training on
    windows: loss, work, energy error, and the share of windows that counted.

    Args:
        run: the folder of the run.
        path: the file; its suffix chooses the format.
        last_epoch: the last epoch to draw, from 0; all if None.

    Raises:
        UserError: the run has no metrics or no checkpoint, matplotlib is missing, or the picture
            cannot be written.
    """
    save(training_figure(run, last_epoch), path)


def training_figure(run: Path, last_epoch: int | None = None) -> Any:
    """The figure of `plot_training`."""
    record = read_record(run, last_epoch)
    metrics = record.metrics
    figure = new_figure(10, 6.5, layout="constrained")
    figure.suptitle(f"training of {run.name}, {len(metrics['epoch'])} epochs")
    panels = figure.subplots(2, 2, sharex=True)
    DRAWN_BY.get(record.objective, _draw_first_metrics)(panels.flat, record)
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


def _draw_two_phases(panels: Any, record: Record) -> None:
    errors, iterations, steps, rates = panels
    metrics = record.metrics
    epoch = metrics["epoch"]

    def values(name: str) -> np.ndarray:
        return metrics.get(name, np.full(len(epoch), np.nan))

    retrained = values("mean_retrain_iterations") > 0
    replayed = values("skipped") == 0
    errors.axhspan(*record.band, color=PALE, label="band")
    errors.axhline(record.threshold, color=GREY, linestyle=":", label="accepted below")
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


def _draw_windows(panels: Any, record: Record) -> None:
    losses, work, errors, windows = panels
    metrics = record.metrics
    epoch = metrics["epoch"]
    # Epochs of imitation have no windows.
    imitated = epoch < record.imitation_epochs
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

    covered = np.where(imitated, np.nan, 100 * metrics["covered"])
    _line(windows, epoch, covered, BLUE, "covered")
    skipped = 100 * metrics["skipped"] / record.windows
    _line(windows, epoch, skipped, ORANGE, "skipped, gradient not finite", linestyle="--")
    windows.set(ylabel="share of the windows (%)", ylim=(-4, 104))


def _draw_first_metrics(panels: Any, record: Record) -> None:
    """Draws a metric in each panel, for an objective without a picture of its own."""
    epoch = record.metrics["epoch"]
    names = [name for name in record.metrics if name not in ("epoch", "epoch_time")]
    for axes, name in zip(panels, names, strict=False):
        _line(axes, epoch, record.metrics[name], BLUE)
        axes.set(ylabel=name)


DRAWN_BY = {"gate": _draw_two_phases, "window": _draw_windows}
"""What draws the pictures of objectives, by their names on the command line."""


def _line(
    axes: Any, x: np.ndarray, y: np.ndarray, colour: str, label: str = "", **style: Any
) -> None:
    """Draws a line, with markers if it has few points."""
    style |= {"color": colour, "label": label, "markersize": 3}
    marker, width = ("o", 1.5) if len(x) <= FEW_EPOCHS else ("", 1.0)
    axes.plot(x, y, marker=marker, linewidth=width, **style)


def _range(axes: Any, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Shades the range between two curves."""
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
