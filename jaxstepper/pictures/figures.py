"""Common parts of all pictures: colours, figures, logarithmic axes, and saving."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError, needing

# Okabe and Ito's colours, which colour-blind readers can tell apart. Lines also differ in dashes,
# widths or markers, for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# Tol's wine, grey and black besides, for pictures of many curves.
MORE_COLOURS = (*COLOURS, "#882255", "#7F7F7F", "#000000")
# Indigo, olive and purple of Tol's besides: one for each of a few bodies.
BODY_COLOURS = (*MORE_COLOURS, "#332288", "#999933", "#AA4499")
# Its lightness rises evenly, so it works in grey and for all eyes, from blue to yellow.
COLOUR_MAP = "cividis"
# The part of it that is dark enough for white paper.
DARK_ENOUGH = 0.88
BLUE, ORANGE = COLOURS[:2]
GREY, PALE = "0.4", "0.88"
TIME, STEP = "time (G = 1)", "dt (G = 1)"
NATURAL = {"length": "G = 1", "time": "G = 1"}
# Up to this many bodies get a colour each, and orbits that the eye can follow.
FEW_BODIES = 12
# Bodies that leave a plane by less than this fraction of their extent are drawn in it.
FLAT = 0.1
# An initial energy smaller than this fraction of its changes is 0 up to rounding.
VANISHES = 1e-9


def new_figure(width: float, height: float, **settings: Any) -> Any:
    """A matplotlib figure, its size in inches; a UserError if matplotlib is missing."""
    with needing("pictures need matplotlib: pip install 'jaxstepper[plot]'"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), **settings)


def legend_above(axes: Any, columns: int = 2) -> None:
    """Adds a legend above the axes, where it hides no curve."""
    handles, _ = axes.get_legend_handles_labels()
    columns = min(columns, len(handles))
    where = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(**where, ncols=columns, fontsize="small", frameon=False)


def label_powers(axis: Any) -> None:
    """Sets the labels of a logarithmic axis with given limits: neither too few nor too many."""
    from matplotlib.ticker import (
        LogLocator,
        MaxNLocator,
        NullFormatter,
        StrMethodFormatter,
    )

    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    axis.set_minor_formatter(NullFormatter())
    if high < 5 * low:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(StrMethodFormatter("{x:.10g}"))
    elif high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def save(figure: Any, path: Path) -> None:
    """Saves a picture in the format of its suffix; a UserError if it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be written ({problem})") from problem


def spatial(
    time: np.ndarray, position: np.ndarray, units: Mapping[str, str] = NATURAL
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Points `[S, N, 2 or 3]` to draw bodies at, and a name for each axis.

    `units` has those of length and time. One dimension is drawn against time `[S]`. Of more than
    three, the first two are drawn. Three are drawn as two where the bodies keep to a plane through
    two axes.
    """
    if position.shape[2] == 1:
        times = np.broadcast_to(time[:, None, None], position.shape)
        return np.concatenate([times, position], axis=2), (
            in_unit(TIME, units, "time"),
            in_unit("x (G = 1)", units, "length"),
        )
    names = tuple(in_unit(f"{name} (G = 1)", units, "length") for name in "xyz")
    if position.shape[2] != 3:
        return position[:, :, :2], names[:2]
    extent = np.nanmax(position, axis=(0, 1)) - np.nanmin(position, axis=(0, 1))
    thin = int(np.argmin(extent))
    if extent[thin] > FLAT * np.max(extent):
        return position, names
    plane = [axis for axis in range(3) if axis != thin]
    return position[:, :, plane], tuple(names[axis] for axis in plane)


def in_unit(label: str, units: Mapping[str, str], kind: str) -> str:
    """A label of something of a kind, such as "time (G = 1)", with its unit."""
    return label.replace("G = 1", units[kind])


def set_space(axes: Any, points: np.ndarray, names: tuple[str, ...]) -> None:
    """Sets names and limits of axes that show `points` `[S, N, 2 or 3]`, with equal scales.

    A few of many bodies may fly off out of sight.
    """
    outside = 0.0 if points.shape[1] <= FEW_BODIES else 0.01
    low, high = np.nanquantile(points, [outside, 1 - outside], axis=(0, 1))
    axes.set(**{f"{axis}label": label for axis, label in zip("xyz", names, strict=False)})
    if len(names) == 3:
        middle, half = (low + high) / 2, 0.525 * np.max(high - low) or 1.0
        for axis, m in zip("xyz", middle, strict=True):
            axes.set(**{f"{axis}lim": (m - half, m + half)})
        axes.set_box_aspect((1, 1, 1))
    else:
        axes.update_datalim([low, high])
        axes.autoscale_view()
        if not names[0].startswith("time"):
            axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=5)


def relative_error(energy: np.ndarray, initial: np.ndarray) -> tuple[np.ndarray, str]:
    """The relative change of energies `[S]`, or the change if an initial one is 0; and its name."""
    change = np.abs(energy - initial)
    largest = np.max(change, where=np.isfinite(change), initial=0.0)
    # A parabola's energy is 0 up to rounding, so its relative error means nothing.
    if np.any(np.abs(initial) <= VANISHES * largest):
        return change, "|E - E0|"
    return change / np.abs(initial), "|E / E0 - 1|"


def uncut(dt: np.ndarray) -> np.ndarray:
    """The steps `[S]`, with NaN for the last: it may have been cut short to end on time."""
    return np.where(np.arange(len(dt)) == max(len(dt) - 1, 1), np.nan, dt)


def positive(values: np.ndarray) -> np.ndarray:
    """The values, with NaN for those without a logarithm."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` items, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, max(min(count, most), 1)).round().astype(int))
