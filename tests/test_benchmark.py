"""The benchmark writes rows that say what its table says."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark
import benchmark_pallas as pallas
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_plot import plot_growth
from benchmark_rows import Row

from jaxstepper.errors import UserError
from jaxstepper.physics.gravity import self_acceleration

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


@pytest.mark.processes
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


# Less than a block; several, with a part of one; and so many that sources are not divided.
@pytest.mark.parametrize("count", [3, 200, pallas.TARGETS * 17])
def test_the_kernel_for_gpus_is_the_direct_sum(count, monkeypatch) -> None:
    monkeypatch.setattr(pallas, "PROGRAMS", 16)
    rng = np.random.default_rng(1)
    position, mass = rng.normal(size=(count, 3)), rng.uniform(0.5, 1.5, count)
    position[1] = position[0]
    position[2] = position[0] + 1e-9 * np.array([0.6, 0.0, 0.8])
    position, mass = jnp.asarray(position), jnp.asarray(mass)
    for softening in (0.0, 0.1):
        expected = self_acceleration(position, mass, softening)
        actual = pallas.acceleration(position, mass, softening, interpret=True)
        scale = np.max(np.abs(expected), axis=1, keepdims=True)
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_kernel_for_gpus_lowers_to_triton(dtype) -> None:
    position, mass = jnp.zeros((5000, 3), dtype), jnp.ones((5000,), dtype)
    traced = jax.jit(pallas.acceleration).trace(position, mass)
    assert "gpu$xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
