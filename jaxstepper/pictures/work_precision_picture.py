"""The picture of work against precision that `evaluate` draws."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from jaxstepper.evaluation.curves import Curve
from jaxstepper.evaluation.run import UNITS, is_learned
from jaxstepper.pictures.figures import MORE_COLOURS, new_figure, save
from jaxstepper.stepping.scheme import BY_NAME

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
# The place of each rule's colour among `MORE_COLOURS`; peers share one with what they do alike.
KNOWN = {
    "free-fall": 0,
    "logarithmic-hamiltonian": 1,
    "hairer-soderlind": 2,
    "distance-over-acceleration": 3,
    "acceleration": 4,
    "huayno": 5,
    "aarseth": 5,
    "fixed": 7,
    "rebound-leapfrog": 7,
    "ias15": 3,
}
TRAINED = (6, 8)
SCHEMES = tuple(BY_NAME)
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
    save(work_precision_figure(all_curves), path)


def work_precision_figure(all_curves: Sequence[Curve]) -> Any:
    """The figure of `plot_work_precision`."""
    problems = list(dict.fromkeys(curve.problem for curve in all_curves))
    timed = any(np.isfinite(curve.seconds).any() for curve in all_curves)
    shown = [(name, work) for name in problems for work in ("evaluations", "seconds")[: 1 + timed]]
    columns = min(4 if timed else 3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(1 + 4 * columns, 1.2 + 3.4 * rows, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    colours = colours_of([curve.rule for curve in all_curves])
    handles: dict[str, Any] = {}
    for (problem, work), axes in zip(shown, panels, strict=False):
        mine = [curve for curve in all_curves if curve.problem == problem]
        for curve in mine:
            line = _draw_curve(axes, curve, work, _style(colours[curve.rule], curve))
            if line.get_xdata().size:
                handles.setdefault(curve.label, line)
        _label(axes, mine[0], work)
    for axes in list(figure.axes)[len(shown) :]:
        axes.set_visible(False)
    where = {"loc": "outside lower center", "ncols": columns + 1, "fontsize": "small"}
    figure.legend(handles.values(), handles.keys(), **where)
    return figure


def _label(axes: Any, curve: Curve, work: str) -> None:
    what = "force evaluations" if work == "evaluations" else "seconds"
    axes.set(xscale="log", yscale="log", title=curve.problem)
    axes.set_ylim(SMALLEST_ERROR / 2, 2)
    axes.set_xlabel(f"{what} per {UNITS[curve.unit]}")
    axes.set_ylabel(ERRORS[curve.judged_by])
    axes.grid(which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def colours_of(names: Sequence[str]) -> dict[str, int]:
    """Which of the colours each rule has: in every picture the same.

    A name that is not known, such as that of a trained rule, has a colour by its letters; or the
    next that is free, if another rule has it in this picture.
    """
    found = {name: KNOWN[name] for name in names if name in KNOWN}
    for name in sorted(set(names) - set(found)):
        order = list(TRAINED if is_learned(name) else range(len(MORE_COLOURS)))
        first = crc32(name.encode()) % len(order)
        order = order[first:] + order[:first] + list(range(len(MORE_COLOURS)))
        found[name] = next((each for each in order if each not in found.values()), order[0])
    return found


def _style(colour: int, curve: Curve) -> dict[str, Any]:
    """The style of a curve: colour by rule, marker by rule and scheme, line and fill by form."""
    # In grey, markers tell colours apart; those of one rule differ by scheme.
    on = SCHEMES.index(curve.scheme) if curve.scheme in SCHEMES else len(SCHEMES)
    return {
        "color": MORE_COLOURS[colour],
        "marker": MARKERS[(colour + 2 * on) % len(MARKERS)],
        "linestyle": "-" if curve.reversible else "--",
        "markerfacecolor": MORE_COLOURS[colour] if curve.reversible else "white",
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
