"""Prints the table of speeds in Markdown, from the results of all machines.

    python scripts/benchmark_tables.py [--write]

--write puts it into the README and the pages of docs/, between the lines <!-- speed table --> and
<!-- end of speed table -->.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmark_chip import OPERATIONS_PER_PAIR
from benchmark_results import load_all

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- speed table -->", "<!-- end of speed table -->"
BETWEEN = re.compile(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", re.DOTALL)


class Line(NamedTuple):
    """A line of the table: rows of a group, side by side.

    Attributes:
        work: what is done.
        unit: what its numbers are.
        group: the `--only` that measures it.
        rows: names of rows.
        number: which of a row's is shown: "ratio", or "value" times `factor`.
        factor: of values.
    """

    work: str
    unit: str
    group: str
    rows: tuple[str, ...]
    number: str = "ratio"
    factor: float = 1.0


BODIES = (4096, 16_384, 65_536, 262_144)


def _direct(way: str, dtype: str) -> Line:
    names = tuple(f"{way} N={count} {dtype}" for count in BODIES)
    words = f"{way}, N = {', '.join(map(str, BODIES))}, {dtype}"
    return Line(words, "10^9 pairs a second", "--gpu", names, "value", 1e-9 / OPERATIONS_PER_PAIR)


LINES = (
    Line(
        "leapfrog, fixed dt, N = 3, 16, 64, 1024, 4096",
        "times rebound's in C",
        "rollouts",
        tuple(f"rollout N={count}" for count in (3, 16, 64, 1024, 4096)),
    ),
    Line(
        "4096, and 2^20 systems of three bodies at once; 4096 watched, as in `simulate`",
        "times rebound, one by one",
        "systems",
        ("systems B=4096", "systems B=1048576", "watched systems B=4096"),
    ),
    Line(
        "leapfrog with an exact clock, N = 3, 64, 1024; with the energy watched too",
        "of the speed without",
        "clock",
        tuple(f"{name} N={count}" for name in ("clock", "watch") for count in (3, 64, 1024)),
    ),
    Line(
        "dt of the default network, one system, and 1024",
        "of the network's passes alone; of the peak of matrix products",
        "learned",
        ("learned dt, one system", "learned dt, B=1024"),
    ),
    *(
        Line(
            f"a step of {model} for 1 and 64 pairs; the same distilled",
            "times free fall's speed on its scheme",
            "trained",
            tuple(f"{model} B={count}{form}" for form in ("", ", distilled") for count in (1, 64)),
        )
        for model in ("kepler", "kepler_chin", "kepler_bm4")
    ),
    Line(
        "a step of free fall in a sphere of 64, 128, 256 bodies",
        "of the speed of a constant dt",
        "clusters",
        tuple(f"free fall N={count}" for count in (64, 128, 256)),
    ),
    Line(
        "a step of plummer in a sphere of 64, 128, 256 bodies; in 16 at once",
        "times free fall's speed",
        "clusters",
        tuple(f"plummer N={count}{many}" for many in ("", " B=16") for count in (64, 128, 256)),
    ),
    Line(
        "retrain iteration, default network",
        "times plain torch; of the rate that Adam's memory traffic allows",
        "retrain",
        ("retrain iteration", "retrain iteration, memory"),
    ),
    Line(
        "phase 2, an iteration in which all of 512 samples fail",
        "times a torch loop over them; times torch in a batch",
        "replay",
        ("phase 2 iteration, 512", "phase 2 iteration, 512, batched"),
    ),
    Line(
        "an accepted step of one orbit of 1, 64, 1024, 65536",
        "us",
        "orbits",
        tuple(f"orbits {count}" for count in (1, 64, 1024, 65_536)),
        "value",
        1e6,
    ),
    Line(
        "`import jaxstepper`, `train --help`, first epoch (warm), compiling a chunk",
        "s",
        "startup",
        ("import jaxstepper", "train --help", "first epoch, warm", "compile a training chunk"),
        "value",
    ),
    *(
        _direct(way, dtype)
        for dtype in ("float32", "float64")
        for way in ("direct sum", "direct sum, XLA")
    ),
    Line(
        "individual steps, N = 1024, 4096, 16384, 65536",
        "of the pairs a second of whole passes",
        "--gpu",
        tuple(f"individual N={count}" for count in (1024, 4096, 16_384, 65_536)),
    ),
    Line(
        "training `kepler`, an epoch; start to end",
        "s",
        "--gpu",
        ("kepler, an epoch", "train kepler"),
        "value",
    ),
)


def table(machines: list[dict[str, Any]]) -> str:
    """The table in Markdown, with a column for each machine and its conditions below."""
    if not machines:
        return ""
    names = [each["machine"]["name"] for each in machines]
    lines = [["work", "in", *names, "`--only`"], ["---"] * (3 + len(names))]
    for line in LINES:
        # The peak of a CPU is measured on one core, and for itself alone.
        fit = [line.group != "--gpu" or each["machine"]["device"] for each in machines]
        cells = [
            _cell(line, each["rows"]) if ok else "" for ok, each in zip(fit, machines, strict=True)
        ]
        if any(cells):
            group = f"`{line.group}`"
            lines.append([line.work, line.unit, *(cell or "-" for cell in cells), group])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text + "\n\n" + "\n".join(_conditions(each) for each in machines) + "\n"


def _cell(line: Line, rows: Iterable[dict[str, Any]]) -> str:
    """The numbers of a machine; empty if it has none of them."""
    by_name = {row["name"]: row for row in rows}
    numbers = [by_name.get(name, {}).get(line.number) for name in line.rows]
    if all(number is None for number in numbers):
        return ""
    factor = line.factor if line.number == "value" else 1.0
    return ", ".join("-" if x is None else _digits(factor * x) for x in numbers)


def _digits(x: float) -> str:
    """Two digits, or all of a larger whole number."""
    return f"{x:.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2f}"


def _conditions(results: dict[str, Any]) -> str:
    """Where, when, and with what a machine's rows were measured."""
    about, rows = results["machine"], results["rows"]
    loads = [row["load"][0] for row in rows if row["load"][0] is not None]
    load = f", load at the start {max(loads):.1f} or less" if loads else ""
    used = _each(rows, lambda row: [f"{k} {v}" for k, v in row["versions"].items() if v])
    dates = _each(rows, lambda row: [row["date"]])
    where = f"{about['cpu']}, {about['instructions']}, {about['cores']} cores, {about['system']}"
    where = f"{about['device']} on {where}" if about["device"] else where
    return f"- {where}{load}; {', '.join(used)}; measured {', '.join(sorted(dates))}"


def _each(rows: Iterable[dict[str, Any]], of: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    """What rows have, each thing once."""
    return list(dict.fromkeys(each for row in rows for each in of(row)))


def pages() -> list[Path]:
    """The pages that hold the table."""
    all_pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in all_pages if BETWEEN.search(page.read_text(encoding="utf-8"))]


def main() -> int:
    """Prints the table, or writes it into the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into README and docs")
    results = load_all()
    if not results:
        print("scripts/benchmarks has no results; run scripts/benchmark.py", file=sys.stderr)
        return 2
    text = table(results)
    if not parser.parse_args().write:
        print(text, end="")
        return 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        page.write_text(BETWEEN.sub(lambda _: text, old), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
