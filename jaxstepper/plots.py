"""Pictures of rollouts and of work against precision; the only import of matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.work_precision import Curve

# Okabe and Ito's colours: told apart by the colour-blind, and in greyscale by their order.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# For pictures of many curves; Tol's wine, grey and black besides.
MORE_COLOURS = (*COLOURS, "#882255", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
UNITS = {"orbit": "orbit", "time": "unit of time"}
# Errors below are drawn at the edge.
SMALLEST_ERROR = 1e-7
# Rules that are reversible as they are; their lines are whole.
REVERSIBLE = ("fixed", "hairer-soderlind", "logarithmic-hamiltonian")


def plot_rollout(trajectory: Mapping[str, np.ndarray], path: Path) -> None:
    """Draws orbits, dt and energy error of one rollout, as `simulate --output` writes it.

    Args:
        trajectory: time `[S + 1]`, dt `[S]`, position `[S + 1, N, D]`, energy `[S + 1]`.
        path: of the picture; its suffix chooses the format.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    figure_of = _figure_class()
    time, dt, position = trajectory["time"], trajectory["dt"], trajectory["position"]
    energy = trajectory["energy"]
    figure = figure_of(figsize=(9, 4), layout="constrained")
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
    _save(figure, path)


def plot_work_precision(all_curves: Sequence[Curve], path: Path) -> None:
    """Draws largest energy error against force evaluations, a panel for each problem.

    Lines are medians over the systems of a problem, bands their 16 to 84 % quantiles; broken lines
    are plain rules, whole ones symmetrised or reversible as they are. Errors below 1e-7 are drawn
    at the edge.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    figure_of = _figure_class()
    problems = list(dict.fromkeys(curve.problem for curve in all_curves))
    rules = list(dict.fromkeys(curve.rule for curve in all_curves))
    columns = min(3, len(problems))
    rows = -(-len(problems) // columns)
    figure = figure_of(figsize=(1 + 4 * columns, 1.2 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for problem, axes in zip(problems, panels.flat, strict=False):
        mine = [curve for curve in all_curves if curve.problem == problem]
        for curve in mine:
            style = _style(rules.index(curve.rule), curve)
            line = _draw_curve(axes, curve, style)
            handles.setdefault(curve.label, line)
        axes.set(xscale="log", yscale="log", title=problem)
        axes.set_ylim(SMALLEST_ERROR / 2, 2)
        axes.set_xlabel(f"force evaluations per {UNITS[mine[0].unit]}")
        axes.set_ylabel("max |E / E0 - 1|")
        axes.grid(which="major", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    for axes in panels.flat[len(problems) :]:
        axes.set_visible(False)
    where = {"loc": "outside lower center", "ncols": columns + 1, "fontsize": "small"}
    figure.legend(handles.values(), handles.keys(), **where)
    _save(figure, path)


def _style(index: int, curve: Curve) -> dict[str, Any]:
    """Colour and marker of a rule, line and filling of its form; learned rules stand out."""
    colour = MORE_COLOURS[index % len(MORE_COLOURS)]
    symmetric = curve.symmetrized or curve.rule in REVERSIBLE
    return {
        "color": colour,
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": "-" if symmetric else "--",
        "markerfacecolor": colour if symmetric else "white",
        "markersize": 4,
        "linewidth": 2.4 if curve.rule.startswith("learned") else 1.2,
    }


def _draw_curve(axes: Any, curve: Curve, style: dict[str, Any]) -> Any:
    shown = np.isfinite(curve.errors)
    work = curve.evaluations[shown]
    errors, low, high = (
        np.clip(each[shown], SMALLEST_ERROR, 1) for each in (curve.errors, curve.low, curve.high)
    )
    (line,) = axes.plot(work, errors, **style)
    if np.any(low < high):
        axes.fill_between(work, low, high, color=style["color"], alpha=0.08, linewidth=0)
    return line


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib: pip install 'jaxstepper[plot]'") from error
    return Figure


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be written ({problem})") from problem
