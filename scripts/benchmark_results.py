"""The results of a machine, in a JSON file that is merged row by row."""

import json
import math
import os
from datetime import date
from pathlib import Path
from typing import Any

import benchmark_machine as machine
from benchmark_rows import Row

FOLDER = Path(__file__).parent / "benchmarks"


class Results:
    """Writes rows as they are measured; those of the file with other names stay.

    A row carries what was true when it was measured: date, versions, and the load of the machine
    when the run began and when the row was done, of which the benchmark itself makes a part.

    Attributes:
        path: the file; by default that of the machine in `scripts/benchmarks`.
        about: the machine.
    """

    def __init__(self, about: dict[str, Any], path: Path | None = None) -> None:
        self.path = path or FOLDER / machine.file_name(about)
        self.about = about
        self._began = machine.load()

    def add(self, row: Row) -> None:
        """Puts a row in the place of the one of its name, or at the end."""
        before = load(self.path)["rows"] if self.path.exists() else []
        rows = {each["name"]: each for each in before}
        rows[row.name] = {
            **{name: _plain(value) for name, value in row._asdict().items()},
            "load": [self._began, machine.load()],
            "date": date.today().isoformat(),
            "versions": machine.versions(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        text = json.dumps({"machine": self.about, "rows": list(rows.values())}, indent=1)
        beside.write_text(text + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def load(path: Path) -> dict[str, Any]:
    """The results of a file: `machine` and `rows`."""
    return json.loads(path.read_text(encoding="utf-8"))


def load_all(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Those of all machines, by name of file."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def _plain(value: Any) -> Any:
    """None for what is not a number, which JSON cannot express."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
