"""The picture of how cost grows: a panel each for bodies, systems and epochs."""

from collections.abc import Iterable
from pathlib import Path

from benchmark_rows import Row

from jaxstepper.errors import UserError
from jaxstepper.pictures.figures import BLUE, GREY, label_powers, new_figure, save

PANELS = {"N": "bodies", "B": "systems of three bodies", "epochs": "epochs of training"}
UNITS = {
    "N": "time per pair and step (s)",
    "B": "time per system and step (s)",
    "epochs": "time per epoch (s)",
}


def plot_growth(rows: Iterable[Row], path: Path) -> None:
    """Draws the rows of the group growth; a level line is work that grows as the arithmetic does.

    Raises:
        UserError: there are no such rows, or matplotlib is missing.
    """
    costs: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row.name.startswith("growth "):
            what, size = row.name.removeprefix("growth ").split("=")
            costs.setdefault(what, []).append((int(size), row.value))
    if not costs:
        raise UserError("--plot: draws the rows of the group growth, and none was measured")
    figure = new_figure(1 + 3.4 * len(costs), 3.2, layout="constrained")
    for axes, (what, points) in zip(
        figure.subplots(1, len(costs), squeeze=False)[0], costs.items(), strict=True
    ):
        sizes, values = zip(*points, strict=True)
        axes.axhline(min(values), color=GREY, linestyle=":", linewidth=1)
        axes.plot(sizes, values, "o-", color=BLUE, linewidth=1.2, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel=PANELS[what], ylabel=UNITS[what])
        axes.set_ylim(min(values) / 3, max(values) * 3)
        label_powers(axes.yaxis)
        axes.grid(which="major", color="0.9", linewidth=0.6)
    save(figure, path)
