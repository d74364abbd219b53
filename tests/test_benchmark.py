"""The benchmark writes rows that say what its table says."""

import json
import subprocess
import sys
from pathlib import Path

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
