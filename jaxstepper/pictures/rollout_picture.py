"""The picture of a rollout: orbits, steps and energy error."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.pictures.figures import (
    BLUE,
    BODY_COLOURS,
    COLOUR_MAP,
    DARK_ENOUGH,
    FEW_BODIES,
    GREY,
    NATURAL,
    ORANGE,
    PALE,
    STEP,
    TIME,
    evenly,
    in_unit,
    label_powers,
    legend_above,
    new_figure,
    positive,
    relative_error,
    save,
    set_space,
    spatial,
    uncut,
)

# The most states that are drawn, and the most distances; longer rollouts are thinned evenly.
MOST_STATES = 10_000
MOST_DISTANCES = 100_000_000
FEW_PANELS = [["orbit"] * 3 + ["steps"] * 3, ["dt"] * 2 + ["error"] * 2 + ["separation"] * 2]
MANY_PANELS = [["orbit", "separation"], ["dt", "error"]]
# The letters of names that fit side by side below the orbits, and those that a gap takes.
LETTERS, GAP = 70, 4
# Smaller energy errors are rounding.
SMALLEST_ERROR = 1e-17


def plot_rollout(
    trajectory: Mapping[str, np.ndarray],
    path: Path,
    title: str = "",
    bodies: Sequence[str] = (),
    units: Mapping[str, str] = NATURAL,
) -> None:
    """Draws the orbits of a rollout, dt along them and along time, and the energy error.

    Args:
        trajectory: time `[S + 1]`, dt `[S]`, position `[S + 1, N, D]`, energy `[S + 1]`.
        path: the file; its suffix chooses the format.
        title: the title.
        bodies: their names, if they have any.
        units: those of length and time.

    Raises:
        UserError: matplotlib is missing, or the picture cannot be written.
    """
    save(rollout_figure(trajectory, title, bodies, units), path)


def rollout_figure(
    trajectory: Mapping[str, np.ndarray],
    title: str = "",
    labels: Sequence[str] = (),
    units: Mapping[str, str] = NATURAL,
) -> Any:
    """The figure of `plot_rollout`."""
    time_label, step_label = (in_unit(label, units, "time") for label in (TIME, STEP))
    time = trajectory["time"]
    dt = positive(uncut(trajectory["dt"]))
    position = np.where(np.isfinite(trajectory["position"]), trajectory["position"], np.nan)
    bodies, dim = position.shape[1:]
    figure = new_figure(10, 7, layout="constrained")
    figure.suptitle(f"{title}: {bodies} bodies in {dim}D, {len(time)} states".lstrip(": "))
    panels = FEW_PANELS if bodies <= FEW_BODIES else MANY_PANELS
    points, names = spatial(time, position, units)
    space = {"projection": "3d"} if len(names) == 3 else {}
    axes: dict[str, Any] = figure.subplot_mosaic(
        panels,
        per_subplot_kw={name: space for name in ("orbit", "steps") if name in panels[0]},
        height_ratios=(1.3, 1),
    )
    _draw_orbits(axes["orbit"], points, names, labels)
    if "steps" in axes:
        _draw_steps(axes["steps"], points, names, dt, step_label)
    axes["dt"].plot(time[:-1], dt, color=BLUE, linewidth=1)
    axes["dt"].set(xlabel=time_label, ylabel=step_label, yscale="log")
    error, name = relative_error(trajectory["energy"], trajectory["energy"][:1])
    shown = positive(np.maximum(error[1:], SMALLEST_ERROR))
    axes["error"].plot(time[1:], shown, color=ORANGE, linewidth=1)
    axes["error"].set(xlabel=time_label, ylabel=name, yscale="log")
    _draw_separation(axes["separation"], position, dt, units)
    for panel in ("dt", "error", "separation"):
        axes[panel].grid(color=PALE, linewidth=0.6)
        label_powers(axes[panel].yaxis)
    return figure


def _draw_orbits(
    axes: Any, points: np.ndarray, names: tuple[str, ...], labels: Sequence[str]
) -> None:
    """Draws a line for each body, with a dot at its end; and the names of a few."""
    points = points[evenly(len(points), MOST_STATES)]
    has_few = points.shape[1] <= FEW_BODIES
    for body in range(points.shape[1]):
        colour = BODY_COLOURS[body] if has_few else BLUE
        line = {"linewidth": 0.8} if has_few else {"linewidth": 0.5, "alpha": 0.4}
        axes.plot(*points[:, body].T, color=colour, **line)
        dot = {"markersize": 6 if has_few else 2, "color": colour if has_few else "black"}
        label = labels[body] if has_few and labels else None
        axes.plot(*points[-1:, body].T, "o", label=label, **dot)
    if has_few and labels:
        columns = max(1, LETTERS // (GAP + max(map(len, labels))))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "columnspacing": 1.0}
        axes.legend(fontsize="small", frameon=False, handletextpad=0.1, ncols=columns, **below)
    set_space(axes, points, names)
    axes.set_title("orbits, a dot where each ends" if has_few else "bodies at the end, and paths")


def _draw_steps(
    axes: Any, points: np.ndarray, names: tuple[str, ...], dt: np.ndarray, label: str
) -> None:
    """Draws each state in the colour of the step taken from it."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    kept = evenly(len(dt), MOST_STATES)
    points = points[kept]
    set_space(axes, points, names)
    axes.set_title("dt over the orbit")
    if not np.any(np.isfinite(dt)):
        return
    # Otherwise a few steps through the closest encounters would use up most of the colours.
    low, high = np.nanquantile(dt, [0.01, 0.99])
    room = 1.0 if high > 1.5 * low else 1.5  # a constant dt needs a scale too
    norm = LogNorm(low / room, high * room)
    colour_map = ListedColormap(colormaps[COLOUR_MAP](np.linspace(0, DARK_ENOUGH, 256)))
    colours = np.repeat(dt[kept], points.shape[1])
    flat = points.reshape(-1, points.shape[2]).T
    dots = axes.scatter(
        *flat, c=colours, s=3, norm=norm, cmap=colour_map, linewidths=0, rasterized=True
    )
    pad = 0.12 if len(names) == 3 else 0.02
    bar = axes.figure.colorbar(dots, ax=axes, label=label, pad=pad, extend="both")
    label_powers(bar.ax.yaxis)


def _draw_separation(
    axes: Any, position: np.ndarray, dt: np.ndarray, units: Mapping[str, str]
) -> None:
    """Draws dt against the closest separation, with the power law of free fall."""
    bodies = position.shape[1]
    kept = evenly(len(dt), min(MOST_STATES, MOST_DISTANCES // bodies**2))
    r, dt = closest_separation(position[kept]), dt[kept]
    apart = in_unit("closest separation r (G = 1)", units, "length")
    axes.set(xlabel=apart, ylabel=in_unit(STEP, units, "time"))
    known = np.isfinite(dt) & np.isfinite(r) & (r > 0)
    r, dt = r[known], dt[known]
    if not known.any():
        return
    axes.plot(r, dt, ".", color=BLUE, markersize=2.5)
    axes.set(xscale="log", yscale="log")
    if np.min(dt) < np.max(dt):
        ends = np.array([np.min(r), np.max(r)])
        through = np.exp(np.median(np.log(dt) - 1.5 * np.log(r)))
        axes.plot(ends, through * ends**1.5, ":", color=GREY, label="∝ r$^{1.5}$, as in free fall")
        legend_above(axes)
    label_powers(axes.xaxis)


def closest_separation(position: np.ndarray) -> np.ndarray:
    """The smallest distance between two bodies, `[S]`, for positions `[S, N, D]`."""
    closest = np.full(len(position), np.inf)
    for body in range(1, position.shape[1]):
        apart = position[:, :body] - position[:, body : body + 1]
        closest = np.minimum(closest, np.min(np.linalg.norm(apart, axis=2), axis=1))
    return closest
