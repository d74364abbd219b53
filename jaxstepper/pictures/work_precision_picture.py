"""The picture of work against precision that `evaluate` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.evaluation.work_precision import Curve
from jaxstepper.pictures.figures import MORE_COLOURS, new_figure, save

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
UNITS = {"orbit": "orbit", "time": "unit of time"}
# Smaller errors are drawn at the edge of the picture.
SMALLEST_ERROR = 1e-7
# Rules that are reversible without symmetrising; their lines are solid.
REVERSIBLE = ("fixed", "hairer-soderlind", "logarithmic-hamiltonian")


def plot_work_precision(all_curves: Sequence[Curve], path: Path) -> None:
    """Draws the largest energy error against force evaluations, a panel for each problem.

    Lines are medians over the systems of a problem, and bands the 16 to 84 % quantiles. Dashed
    lines are plain rules; solid ones are symmetrised, or reversible anyway.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    problems = list(dict.fromkeys(curve.problem for curve in all_curves))
    rules = list(dict.fromkeys(curve.rule for curve in all_curves))
    columns = min(3, len(problems))
    rows = -(-len(problems) // columns)
    figure = new_figure(1 + 4 * columns, 1.2 + 3.4 * rows, layout="constrained")
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
    save(figure, path)


def _style(index: int, curve: Curve) -> dict[str, Any]:
    """Colour and marker of a curve tell its rule; dashes and fill, whether it is reversible."""
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
