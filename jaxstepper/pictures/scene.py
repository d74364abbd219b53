"""The figure of a movie: moving bodies, beside energy, momentum, angular momentum and dt."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxstepper.pictures.figures import (
    BLUE,
    BODY_COLOURS,
    FEW_BODIES,
    NATURAL,
    PALE,
    TIME,
    evenly,
    in_unit,
    label_powers,
    new_figure,
    positive,
    relative_error,
    set_space,
    spatial,
    uncut,
)
from jaxstepper.pictures.film import Film

# In inches: 1280 x 720 dots at the default of 120 dpi.
WIDTH, HEIGHT = 32 / 3, 6.0
LAYOUT = {"left": 0.09, "right": 0.98, "top": 0.9, "bottom": 0.1, "hspace": 0.18, "wspace": 0.26}
# How many frames back the tail of a body reaches, and its pieces for few and for many bodies.
TAIL = 60
PIECES, PIECES_OF_MANY = 300, 15
# The most points of a curve.
MOST_POINTS = 2000
ENERGY = "E"
# Energies that differ by a smaller fraction have too many digits for the axis.
EVEN = 1e-5
# Smaller errors are rounding.
SMALLEST_ERROR = 1e-17


class Scene:
    """The figure of a movie; `show` updates its moving parts.

    The bodies are on the left, each with a fading tail. On the right, curves grow with time, or in
    training with the epochs.
    """

    def __init__(self, film: Film, frames: int) -> None:
        """Draws the fixed parts; the number of frames decides how far tails reach back."""
        self.film = film
        self.figure = new_figure(WIDTH, HEIGHT)
        self._origin = film.origin
        self._points, names = spatial(film.time, film.position, film.units or NATURAL)
        self._labels: Callable[[int], str] = _labels_of(film)
        self._offsets = _tail_offsets(film, frames)
        grid = self.figure.add_gridspec(5, 2, width_ratios=(1.5, 1), **LAYOUT)
        space = {"projection": "3d"} if len(names) == 3 else {}
        self.bodies = self.figure.add_subplot(grid[:, 0], **space)
        set_space(self.bodies, self._points, names)
        self.label = self.figure.text(0.09, 0.94, "", fontsize="large", animated=True)
        self.figure.text(0.98, 0.94, _words_of_units(film), horizontalalignment="right")
        self.tail, self.dots = self._bodies()
        self.curves = self._curves(grid)

    def _bodies(self) -> tuple[Any, list[Any]]:
        """The tails, and a dot for each body, whose volume is proportional to the mass."""
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgb
        from mpl_toolkits.mplot3d.art3d import Line3DCollection

        count, dim = self._points.shape[1:]
        has_few = count <= FEW_BODIES
        colours = BODY_COLOURS[:count] if has_few else [BLUE] * count
        fade = np.linspace(0, 1, len(self._offsets))[1:] ** 1.5
        rgba = np.ones((count, len(fade), 4))
        rgba[:, :, :3] = np.array([to_rgb(each) for each in colours])[:, None]
        rgba[:, :, 3] = fade if has_few else 0.5 * fade
        kind: Any = Line3DCollection if dim == 3 else LineCollection
        tail = kind(self._pieces(0), colors=rgba.reshape(-1, 4), linewidths=1.5 if has_few else 0.8)
        tail.set_animated(True)
        self.bodies.add_collection(tail, autolim=False)
        largest = min(9.0, 40 / np.sqrt(count))
        sizes = largest * np.cbrt(self.film.mass / np.max(self.film.mass))
        dots = [
            self.bodies.plot(
                *self._points[:1, i].T, "o", color=colour, markersize=max(size, 1.5), animated=True
            )[0]
            for i, (colour, size) in enumerate(zip(colours, sizes, strict=True))
        ]
        if has_few and self.film.names:
            for name, colour in zip(self.film.names, colours, strict=True):
                self.bodies.plot([], [], "o", color=colour, label=name)
            self.bodies.legend(loc="upper left", fontsize="small", frameon=False)
        return tail, dots

    def _pieces(self, frame: int) -> np.ndarray:
        """The pieces of all tails, `[N * pieces, 2, D]`; tails end where their path begins."""
        states = np.maximum(frame - self._offsets, self._origin[frame])
        points = self._points[states].swapaxes(0, 1)
        pieces = np.stack([points[:, :-1], points[:, 1:]], axis=2)
        return pieces.reshape(-1, *pieces.shape[2:])

    def _curves(self, grid: Any) -> list[tuple[np.ndarray, np.ndarray, Any, Any]]:
        """The x and y values of each panel, and the line and the dot that show them."""
        film = self.film
        along = film.time if film.epochs is None else film.epochs
        curves: list[tuple[np.ndarray, np.ndarray, Any, Any]] = []
        panels: list[Any] = []
        for row, (name, values) in enumerate(_curves_of(film).items()):
            axes = self.figure.add_subplot(grid[row, 1], sharex=panels[0] if panels else None)
            panels.append(axes)
            axes.plot(along, values, color=PALE, linewidth=1.5)
            axes.set(ylabel=name, yscale="linear" if name == ENERGY else "log")
            axes.yaxis.set_label_coords(-0.22, 0.5)
            axes.tick_params(labelbottom=row == 4, labelsize="small")
            if name == ENERGY:
                is_even = np.ptp(values) < EVEN * np.max(np.abs(values))
                axes.ticklabel_format(useOffset=bool(is_even), axis="y")
            label_powers(axes.yaxis)
            (line,) = axes.plot([], [], color=BLUE, linewidth=1.2, animated=True)
            (dot,) = axes.plot([], [], "o", color="black", markersize=4, animated=True)
            curves.append((along, values, line, dot))
        time = in_unit(TIME, film.units or NATURAL, "time")
        panels[-1].set_xlabel(time if film.epochs is None else "epochs of training")
        return curves

    def show(self, frame: int) -> None:
        """Moves everything to a state."""
        self.label.set_text(self._labels(frame))
        self.tail.set_segments(self._pieces(frame))
        for body, dot in enumerate(self.dots):
            point = self._points[frame, body]
            if len(point) == 3:
                dot.set_data_3d(*point[:, None])
            else:
                dot.set_data(*point[:, None])
        for along, values, line, dot in self.curves:
            kept = evenly(frame + 1, MOST_POINTS)
            line.set_data(along[kept], values[kept])
            dot.set_data(along[frame : frame + 1], values[frame : frame + 1])

    def draw(self, frames: np.ndarray, dpi: int) -> Iterator[np.ndarray]:
        """The pixels `[height, width, 3]` of each of these states.

        Fixed parts are drawn once, which makes movies five times faster.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        still = canvas.copy_from_bbox(self.figure.bbox)
        for frame in frames:
            canvas.restore_region(still)
            self.show(int(frame))
            if hasattr(self.tail, "do_3d_projection"):
                self.tail.do_3d_projection()
            for artist in (self.tail, *self.dots):
                self.bodies.draw_artist(artist)
            for _, _, line, dot in self.curves:
                line.axes.draw_artist(line)
                dot.axes.draw_artist(dot)
            self.figure.draw_artist(self.label)
            yield np.array(canvas.buffer_rgba())[:, :, :3].copy()


def _words_of_units(film: Film) -> str:
    if film.units is None:
        return "units: G = 1"
    return "units: " + ", ".join(film.units[kind] for kind in ("length", "time", "mass"))


def _labels_of(film: Film) -> Callable[[int], str]:
    """The line of text above a state."""

    def rollout(frame: int) -> str:
        return f"time {film.time[frame]:.4g}, state {frame} of {len(film.time) - 1}"

    def training(frame: int) -> str:
        assert film.epochs is not None
        return f"after {film.epochs[frame]} epochs, time {film.time[frame]:.4g}"

    return rollout if film.epochs is None else training


def _tail_offsets(film: Film, frames: int) -> np.ndarray:
    """How many states back each point of a tail is, from the farthest to 0."""
    few = film.position.shape[1] <= FEW_BODIES
    reach = max(round(TAIL * len(film.time) / frames), 1)
    return np.linspace(reach, 0, (PIECES if few else PIECES_OF_MANY) + 1).round().astype(int)


def _curves_of(film: Film) -> dict[str, np.ndarray]:
    """The curves `[F]`, by the labels of their axes."""
    error, name = relative_error(film.energy, film.energy[film.origin])
    momenta = [each.reshape(len(each), -1) for each in film.conserved()]
    away = [np.linalg.norm(each - each[film.origin], axis=1) for each in momenta]
    begins = film.origin == np.arange(len(film.time))

    def log(values: np.ndarray) -> np.ndarray:
        return positive(np.where(begins, np.nan, np.maximum(values, SMALLEST_ERROR)))

    dt = film.dt if film.epochs is not None else uncut(film.dt)
    labels = (name, "|P - P0|", "|L - L0|")
    errors = {label: log(each) for label, each in zip(labels, (error, *away), strict=True)}
    return {ENERGY: film.energy, **errors, "dt": positive(dt)}
