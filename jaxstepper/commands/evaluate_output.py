"""What `evaluate` writes and prints: runs.csv, summary.json and tables."""

import argparse
import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.evaluation.run import UNITS, Run
from jaxstepper.evaluation.work_precision import key_of

COLUMNS = tuple(field.name for field in fields(Run))
ERRORS = {"energy": "an energy error", "position": "a position error at the end"}

Cell = Callable[[dict[str, Any], str], str]


def write_csv(path: Path, runs: Sequence[Run]) -> None:
    """Writes all runs; until they are whole, the file keeps its content."""
    unfinished = path.with_suffix(".part")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(run) for run in runs)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, found: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes a summary, and the options that led to it."""
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    content = {**found, "settings": settings}
    try:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def tables(found: dict[str, Any], batch: int) -> list[str]:
    """The lines of the tables of a summary: work, seconds, position errors, ratios to the best.

    Seconds are those of runs alone, or in batches of so many.
    """
    keys = [key_of(target) for target in found["targets"]]
    lines: list[str] = []
    for name, entry in found["problems"].items():
        rules, unit, judged_by = entry["rules"], UNITS[entry["unit"]], entry["judged_by"]

        def add(title: str, cell: Cell, name: str = name, rules: dict = rules) -> None:
            lines.extend(_table(f"{name}: {title}", keys, rules, cell))

        add(f"evaluations per {unit} for {ERRORS[judged_by]} of", _evaluations)
        if _any(rules, "seconds_per_unit"):
            how = f"a system of {batch} side by side" if batch > 1 else "each run alone"
            add(f"seconds per {unit}, {how}", partial(_number, "seconds_per_unit"))
        if judged_by != "position" and _any(rules, "position_error"):
            title = f"{ERRORS['position']}, beside an energy error of"
            add(title, partial(_number, "position_error"))
        if entry["systems"] > 1:
            interval = f"{found['confidence']:.0%} interval"
            add(f"evaluations over those of the best classical rule, {interval}", _ratio)
    return [*lines, "<: the longest steps tried do already; -: the shortest do not"]


def _table(title: str, keys: Sequence[str], rules: dict[str, Any], cell: Cell) -> list[str]:
    cells = {label: [cell(rule, key) for key in keys] for label, rule in rules.items()}
    width = max(len(label) for label in rules)
    column = max(10, *(2 + len(each) for row in cells.values() for each in row))

    def line(label: str, row: Sequence[str]) -> str:
        return f"  {label:<{width}}" + "".join(f"{each:>{column}}" for each in row)

    return [title, line("", keys), *(line(label, row) for label, row in cells.items())]


def _any(rules: dict[str, Any], name: str) -> bool:
    return any(each is not None for rule in rules.values() for each in rule[name].values())


def _evaluations(rule: dict[str, Any], key: str) -> str:
    sign = "<" if key in rule["at_most"] else ""
    number = _number("evaluations_per_unit", rule, key, 4)
    return number if number == "-" else sign + number


def _number(name: str, rule: dict[str, Any], key: str, digits: int = 3) -> str:
    number = rule[name][key]
    return "-" if number is None else f"{number:.{digits}g}"


def _ratio(rule: dict[str, Any], key: str) -> str:
    ratio, interval = rule["ratio_to_best_classical"][key], rule["interval_to_best_classical"][key]
    if ratio is None or interval is None:
        return "-"
    low, high = ("inf" if end is None else f"{end:.2f}" for end in interval)
    return f"{ratio:.2f} [{low}, {high}]"
