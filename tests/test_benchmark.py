"""The benchmark writes rows that say what its table says."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import benchmark
import benchmark_chip as chip
import benchmark_gpu as gpu
import benchmark_machine as machine
import benchmark_tables as tables
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmark_plot import plot_growth
from benchmark_results import Results, load, load_all
from benchmark_rows import Row

from jaxstepper.errors import UserError
from jaxstepper.physics import pair_kernel

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


FIELDS = ("name", "value", "unit", "reference", "reference_value", "ratio", "goal")


def run(*arguments: object) -> str:
    command = [sys.executable, SCRIPT, "--quick", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.processes
def test_the_benchmark_writes_rows_and_where_they_were_measured(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    table = run("--only", "systems", "--json", file)
    results = json.loads(file.read_text())
    row, watched = results["rows"]
    assert watched["name"] == "watched systems B=256"
    assert set(FIELDS) <= row.keys()
    assert row["name"] == "systems B=256" and row["goal"] == 4
    assert abs(row["ratio"] / (row["value"] / row["reference_value"]) - 1) < 1e-9
    assert row["versions"]["jax"] == jax.__version__ and len(row["load"]) == 2
    about = results["machine"]
    assert about["cores"] == len(os.sched_getaffinity(0))
    first, header, line, _, last = table.splitlines()
    assert first.startswith(about["name"]) and f"jax {jax.__version__}" in first
    assert "compiling" in header and row["name"] in line and last.startswith("load at the end")


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
        assert [row["name"] for row in load(file)["rows"]] == names
    else:
        assert "no group and no row of this name" in capsys.readouterr().err
        assert not file.exists()


def row_of(name: str, value: float) -> Row:
    return Row(name, value, "s", "", 1.0, 1 / value)


def test_rows_are_merged_by_name(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "rows.json"
    first, second = (Results({"name": "a machine"}, file) for _ in range(2))
    for name in ("x", "y", "z"):
        first.add(row_of(name, 1.0))
    second.add(row_of("y", math.nan))
    second.add(row_of("new", 3.0))
    values = {row["name"]: row["value"] for row in load(file)["rows"]}
    assert list(values.items()) == [("x", 1.0), ("y", None), ("z", 1.0), ("new", 3.0)]
    assert [path.name for path in file.parent.iterdir()] == ["rows.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "model name\t: AMD EPYC\ncpu family\t: 26\nmodel\t\t: 2\nflags\t: sse4_2 avx avx2 "
            "avx512f\nmodel name\t: another",
            ("AMD EPYC (family 26, model 2)", "AVX-512"),
        ),
        (
            "model name : Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz\ncpu family : 6\nmodel : 85\n"
            "flags : avx avx2",
            ("Intel Xeon Gold 6248 CPU @ 2.50GHz", "AVX2"),
        ),
        (
            "machdep.cpu.brand_string: Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz\n"
            "machdep.cpu.features: FPU SSE4.2\nmachdep.cpu.leaf7_features: AVX2 BMI2\n",
            ("Intel Core i7-9750H CPU @ 2.60GHz", "AVX2"),
        ),
    ],
)
def test_a_processor_in_words(text: str, words: tuple[str, str]) -> None:
    assert machine._from_text(text) == words


def test_each_machine_has_a_file_of_its_own() -> None:
    card = machine.describe("NVIDIA H100 80GB HBM3")
    assert machine.file_name(card) == "nvidia-h100-80gb-hbm3.json"
    plain = machine.describe()
    assert plain["cpu"] in plain["name"] and plain["instructions"] in plain["name"]
    assert machine.file_name(plain) != machine.file_name({**plain, "name": plain["name"] + ", 3"})


def results_of(name: str, numbers: dict[str, float]) -> dict:
    about = {"name": name, "cpu": name, "instructions": "AVX2", "cores": 2, "system": "Linux"}
    measured = {"load": [0.1, 2.0], "date": "2026-01-02", "versions": {"jax": "9", "torch": None}}
    rows = [{"name": row, "ratio": x, "value": x, **measured} for row, x in numbers.items()]
    return {"machine": {**about, "device": None}, "rows": rows}


def test_a_narrower_instruction_set_is_a_machine_of_its_own(monkeypatch) -> None:
    plain = machine.describe()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=SSE4_2 --xla_dump_to=x")
    kept = machine.describe()
    assert kept["instructions"] == "XLA kept to SSE4_2"
    assert machine.file_name(kept) != machine.file_name(plain)


def test_the_table_has_a_column_for_each_machine() -> None:
    one = results_of("A", {"rollout N=3": 2.04, "rollout N=1024": 12.4, "orbits 1": 5e-4})
    other = results_of("B", {"systems B=4096": 0.5})
    lines = tables.table([one, other]).splitlines()
    assert lines[0] == "| work | in | A | B | `--only` |"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[2:] for row in cells] == [
        ["2.0, -, -, 12, -", "-", "`rollouts`"],
        ["-", "0.50, -, -", "`systems`"],
        ["500, -, -, -", "-", "`orbits`"],
    ]
    load = "load at the start 0.1 or less"
    assert lines[6] == f"- A, AVX2, 2 cores, Linux, {load}; jax 9; measured 2026-01-02"
    assert len(lines) == 8


def test_the_table_of_the_pages_is_that_of_the_results() -> None:
    results = load_all()
    if not results:
        pytest.skip("no machine has results yet")
    expected = tables.table(results)
    assert tables.pages()
    for page in tables.pages():
        assert tables.BETWEEN.search(page.read_text())[0] == expected, page


def test_a_page_is_written_between_its_marks(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"a\n{tables.BEGIN}\nold\n{tables.END}\nb\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    results = [results_of("A", {"rollout N=3": 2.0})]
    monkeypatch.setattr(tables, "load_all", lambda: results)
    monkeypatch.setattr(sys, "argv", ["benchmark_tables.py", "--write"])
    assert tables.main() == 0
    table = tables.table(results)
    written = f"a\n{tables.BEGIN}\n{table}{tables.END}\nb\n"
    assert page.read_text() == written
    monkeypatch.setattr(tables, "load_all", list)
    assert tables.main() == 2
    assert page.read_text() == written


# Stands for the process that measures: the task "slow" hangs, "crash" ends it, "late" comes too
# late for any limit.
WORKER = """
import json, os, sys, time
say = lambda **what: print(json.dumps(what), flush=True)
tasks = [("one", 60), ("slow", 0.1), ("crash", 60), ("two", 60)]
say(device="a card", tasks=tasks)
print("a line of something else")
for name, _ in tasks[int(sys.argv[-1]):]:
    if name == "slow":
        time.sleep(1000)
    if name == "crash":
        os._exit(3)
    say(row=[name, 1.0, "s", "", 1.0, 1.0])
    say(done=name)
"""


@pytest.mark.processes
def test_a_row_that_hangs_or_crashes_is_recorded_and_the_next_goes_on() -> None:
    measured = list(gpu.measured([sys.executable, "-c", WORKER], 120.0))
    assert {device for device, _ in measured} == {"a card"}
    rows = [row for _, row in measured]
    assert [row.name for row in rows] == ["one", "slow", "crash", "two"]
    assert [row.error for row in rows[::3]] == ["", ""]
    assert rows[1].error == "took more than 0 s"
    assert rows[2].error == "the process ended with exit code 3"


@pytest.mark.processes
def test_what_there_is_no_time_for_is_recorded_too(monkeypatch) -> None:
    # The clock stands still until the process has started, and then jumps.
    clock = itertools.chain([0.0, 0.0], itertools.repeat(1e9))
    monkeypatch.setattr(gpu, "monotonic", lambda: next(clock))
    never = WORKER.replace("for name, _", "time.sleep(1000)\nfor name, _")
    rows = [row for _, row in gpu.measured([sys.executable, "-c", never], 480.0)]
    assert [row.name for row in rows] == ["one", "slow", "crash", "two"]
    assert rows[0].error == "took more than 0 s"
    assert {row.error for row in rows[1:]} == {"not begun: 480 s were over"}


@pytest.mark.processes
def test_a_worker_that_does_not_start_is_an_error() -> None:
    with pytest.raises(UserError, match="did not start: .* exit code 1"):
        list(gpu.measured([sys.executable, "-c", "raise SystemExit(1)"], 60.0))


def test_without_a_card_the_whole_run_is_refused(monkeypatch, capsys) -> None:
    rows = [(None, row_of("x", 1.0))]
    monkeypatch.setattr(gpu, "measured", lambda command, limit: iter(rows))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--gpu"])
    assert benchmark.main() == 2
    assert "there is no GPU here; --gpu --quick tries" in capsys.readouterr().err


@pytest.mark.processes
def test_without_a_card_only_the_quick_run_is_made(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    run("--gpu", "--only", "direct sum*64", "--json", file)
    names = [row["name"] for row in load(file)["rows"]]
    assert names == ["direct sum N=256 float64", "direct sum N=256 float64, memory"]


@pytest.mark.slow
@pytest.mark.processes
def test_all_that_is_measured_on_a_card_in_small(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    run("--gpu", "--json", file)
    rows = load(file)["rows"]
    assert len(rows) == 16 and {row["error"] for row in rows} == {""}


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


def test_the_peak_of_a_gpu_is_that_of_multiply_adds(monkeypatch) -> None:
    monkeypatch.setattr(chip, "LINKS_IN_KERNEL", 3)
    x = jnp.linspace(0.1, 0.9, 2 * chip.ELEMENTS_AT_ONCE)
    values = [x + k for k in range(chip.CHAINS)]
    for _ in range(3):
        values = [value * x + 0.5 for value in values]
    np.testing.assert_allclose(chip.chains_in_kernel(x, interpret=True), sum(values), rtol=1e-14)


def test_a_direct_sum_can_do_without_its_kernel(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(pair_kernel, "LEAST_BODIES", 9)
    monkeypatch.setattr(pair_kernel, "suits", lambda n: asked.append(n < pair_kernel.LEAST_BODIES))
    position, mass = jnp.eye(9, 3), jnp.ones(9)
    for way in chip.WAYS.values():
        way(position, mass, softening=0.1)
    assert asked == [False, True] and pair_kernel.LEAST_BODIES == 9
