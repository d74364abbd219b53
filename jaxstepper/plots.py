"""Pictures of a recorded rollout; the only import of matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError

# Okabe and Ito's colours: told apart by the colour-blind, and in greyscale by their order.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def plot_rollout(trajectory: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws orbits, dt and energy error of one rollout, as `simulate --output` writes it.

    Args:
        trajectory: time `[S + 1]`, dt `[S]`, position `[S + 1, N, D]`, energy `[S + 1]`.
        path: of the picture; its suffix chooses the format.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("plot needs matplotlib: pip install 'jaxstepper[plot]'") from error
    time, dt, position = trajectory["time"], trajectory["dt"], trajectory["position"]
    energy = trajectory["energy"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes: dict[str, Any] = figure.subplot_mosaic([["orbit", "dt"], ["orbit", "error"]])

    for body in range(position.shape[1]):
        x, y = position[:, body, 0], position[:, body, 1 if position.shape[2] > 1 else 0]
        colour = COLOURS[body % len(COLOURS)]
        axes["orbit"].plot(x, y, color=colour, linewidth=0.4)
        # A dot for every state shows where the steps are short.
        axes["orbit"].plot(x, y, ".", color=colour, markersize=2)
    axes["orbit"].locator_params(nbins=5)
    axes["orbit"].set(xlabel="x", ylabel="y", aspect="equal", title="orbits, a dot per step")

    axes["dt"].semilogy(time[:-1], dt, color=COLOURS[0], linewidth=1)
    axes["dt"].set(ylabel="dt", title=f"{len(dt)} steps")
    axes["dt"].sharex(axes["error"])
    axes["dt"].tick_params(labelbottom=False)

    deviation = np.abs(energy / energy[0] - 1)
    axes["error"].semilogy(
        time[1:], np.maximum(deviation[1:], 1e-17), color=COLOURS[1], linewidth=1
    )
    axes["error"].set(xlabel="time (G = 1)", ylabel="|E / E0 - 1|")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be written ({problem})") from problem
