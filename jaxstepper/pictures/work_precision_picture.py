"""The picture of work against precision that `evaluate` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.evaluation.curves import Curve
from jaxstepper.evaluation.run import UNITS, is_learned
from jaxstepper.pictures.figures import MORE_COLOURS, new_figure, save

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
ERRORS = {"energy": "max |E / E0 - 1|", "position": "position error at the end"}
# Smaller errors are drawn at the edge of the picture.
SMALLEST_ERROR = 1e-7


def plot_work_precision(all_curves: Sequence[Curve], path: Path) -> None:
    """Draws errors against force evaluations, a panel for each problem, and against seconds.

    Lines are medians over the systems of a problem, and bands their 16 to 84 % quantiles. Dashed
    lines are plain rules; solid ones are time-reversible. Errors below 1e-7 are drawn at the edge.
    Where rules were timed, a second panel beside the first has the seconds of a run alone.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    problems = list(dict.fromkeys(curve.problem for curve in all_curves))
    timed = any(np.isfinite(curve.seconds).any() for curve in all_curves)
    shown = [(name, work) for name in problems for work in ("evaluations", "seconds")[: 1 + timed]]
    columns = min(4 if timed else 3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(1 + 4 * columns, 1.2 + 3.4 * rows, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    colours = list(dict.fromkeys((curve.rule, curve.scheme) for curve in all_curves))
    handles: dict[str, Any] = {}
    for (problem, work), axes in zip(shown, panels, strict=False):
        mine = [curve for curve in all_curves if curve.problem == problem]
        for curve in mine:
            style = _style(colours.index((curve.rule, curve.scheme)), curve)
            handles.setdefault(curve.label, _draw_curve(axes, curve, work, style))
        _label(axes, mine[0], work)
    for axes in list(figure.axes)[len(shown) :]:
        axes.set_visible(False)
    where = {"loc": "outside lower center", "ncols": columns + 1, "fontsize": "small"}
    figure.legend(handles.values(), handles.keys(), **where)
    save(figure, path)


def _label(axes: Any, curve: Curve, work: str) -> None:
    what = "force evaluations" if work == "evaluations" else "seconds"
    axes.set(xscale="log", yscale="log", title=curve.problem)
    axes.set_ylim(SMALLEST_ERROR / 2, 2)
    axes.set_xlabel(f"{what} per {UNITS[curve.unit]}")
    axes.set_ylabel(ERRORS[curve.judged_by])
    axes.grid(which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _style(index: int, curve: Curve) -> dict[str, Any]:
    """The style of a curve: colour and marker by rule and scheme, line and fill by form."""
    colour = MORE_COLOURS[index % len(MORE_COLOURS)]
    return {
        "color": colour,
        # There are as many markers as colours; the second round pairs them otherwise.
        "marker": MARKERS[(index + index // len(MORE_COLOURS)) % len(MARKERS)],
        "linestyle": "-" if curve.reversible else "--",
        "markerfacecolor": colour if curve.reversible else "white",
        "markersize": 4,
        "linewidth": 2.4 if is_learned(curve.rule) else 1.2,
    }


def _draw_curve(axes: Any, curve: Curve, of: str, style: dict[str, Any]) -> Any:
    work: np.ndarray = getattr(curve, of)
    shown = np.isfinite(curve.errors) & np.isfinite(work)
    errors, low, high = (
        np.clip(each[shown], SMALLEST_ERROR, 1)
        for each in (curve.errors, curve.quantiles(0.16), curve.quantiles(0.84))
    )
    (line,) = axes.plot(work[shown], errors, **style)
    if np.any(low < high):
        axes.fill_between(work[shown], low, high, color=style["color"], alpha=0.08, linewidth=0)
    return line
