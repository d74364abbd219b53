"""The benchmark writes rows that say what its table says."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark
import pytest
from benchmark_plot import plot_growth
from benchmark_rows import Row

from jaxstepper.errors import UserError

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


def test_the_benchmark_writes_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, SCRIPT, "--quick", "--only", "systems", "--json", file]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (row,) = json.loads(file.read_text())
    fields = ["name", "value", "unit", "reference", "reference_value", "ratio", "goal"]
    assert list(row) == fields
    assert row["name"] == "systems B=256" and row["goal"] == 4
    assert abs(row["ratio"] / (row["value"] / row["reference_value"]) - 1) < 1e-9
    assert "compiling" in table and row["name"] in table.splitlines()[1]


@pytest.mark.parametrize(("pattern", "names"), [("b", ["x", "y"]), ("x*", ["x"]), ("c", [])])
def test_only_is_a_group_or_names_of_rows(pattern, names, tmp_path, monkeypatch, capsys) -> None:
    rows = {name: Row(name, 1.0, "s", "", 1.0, 1.0) for name in ("w", "x", "y")}
    made = {"a": ["w"], "b": ["x", "y"]}
    monkeypatch.setattr(
        benchmark,
        "groups",
        lambda quick: {g: lambda n=n: map(rows.get, n) for g, n in made.items()},
    )
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--only", pattern, "--json", str(file)])
    assert benchmark.main() == (0 if names else 2)
    if names:
        assert [row["name"] for row in json.loads(file.read_text())] == names
    else:
        assert "no group and no row of this name" in capsys.readouterr().err
        assert not file.exists()


def test_growth_is_drawn_in_a_panel_for_each_kind(tmp_path: Path, monkeypatch) -> None:
    figures = []
    monkeypatch.setattr("benchmark_plot.save", lambda figure, path: figures.append(figure))
    sizes = {"N": (3, 64), "B": (1, 16), "epochs": (10, 100)}
    rows = [
        Row(f"growth {kind}={size}", 1.0 / size, "s", "", 1.0, 1.0)
        for kind, each in sizes.items()
        for size in each
    ]
    plot_growth(rows, tmp_path / "growth.png")
    for axes, each in zip(figures[0].axes, sizes.values(), strict=True):
        curve = axes.lines[-1]
        assert tuple(curve.get_xdata()) == each
        assert list(curve.get_ydata()) == [1.0 / size for size in each]
    with pytest.raises(UserError, match="none was measured"):
        plot_growth(rows[:0], tmp_path / "growth.png")
