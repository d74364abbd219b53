"""What `evaluate` does: runs step-size rules on problems, and writes the results."""

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from jaxstepper.commands.evaluate_arguments import (
    SYMMETRIZED,
    Candidate,
    candidates,
    parse_evaluate,
)
from jaxstepper.errors import UserError
from jaxstepper.evaluation import ias15 as reference
from jaxstepper.evaluation.measure import Run, evaluate
from jaxstepper.evaluation.problems import Problem, problem
from jaxstepper.evaluation.work_precision import COLUMNS, TARGETS, Curve, curves, summary
from jaxstepper.physics.gravity import Gravity
from jaxstepper.pictures.work_precision_picture import plot_work_precision
from jaxstepper.reporting.bars import Bars, open_bars, part_of
from jaxstepper.reporting.note import note
from jaxstepper.runs.jax_setup import configure_jax
from jaxstepper.runs.places import check_folder_place
from jaxstepper.settings.config import Config
from jaxstepper.stepping.rule import symmetrized

SECONDS_BETWEEN_LINES = 10.0
# Errors below this fraction of the smallest target tell nothing new.
ENOUGH = 0.5


def run_evaluate(arguments: list[str]) -> int:
    """`evaluate [flags]`; returns the exit code."""
    options = parse_evaluate(arguments)
    out = _folder(options.out)
    configure_jax(Config(device=options.device, compilation_cache=options.compilation_cache))
    to_judge = candidates(options)
    problems = [
        problem(name, options.orbits, options.seed, options.end_time) for name in options.problems
    ]
    runs: list[Run] = []
    with open_bars() as bars:
        sweeps = list(_sweeps(options, to_judge, problems))
        if not sweeps:
            raise UserError("no rule of --rules can run on these problems")
        for i, sweep in enumerate(sweeps):
            report = part_of(partial(_report, bars, sweep.label), i, len(sweeps))
            runs += _runs(options, sweep, report if bars.are_shown else _Lines(sweep.label))
            out.mkdir(parents=True, exist_ok=True)
            # Rewritten after each rule, so that finished work is never lost.
            _write_csv(out / "runs.csv", runs)
    found = curves(runs)
    _write_json(out / "summary.json", found, options)
    _print_table(found)
    print(out / "runs.csv", out / "summary.json", sep="\n")
    try:
        plot_work_precision(found, out / "work-precision.png")
        print(out / "work-precision.png")
    except UserError as error:
        note(f"no figure: {error}")
    return 0


def _folder(path: str) -> Path:
    out = Path(path)
    if (out / "runs.csv").exists():
        raise UserError(f"--out {out}: holds an evaluation already; name another folder")
    check_folder_place(out, f"--out {out}")
    return out


@dataclass(frozen=True)
class _Sweep:
    """A rule, plain or symmetrised, on problems of one kind."""

    candidate: Candidate
    symmetrized: bool
    problems: Sequence[Problem]

    @property
    def label(self) -> str:
        form = ", symmetrized" if self.symmetrized else ""
        return f"{self.candidate.name}{form} on {_names(self.problems)}"


def _sweeps(
    options: argparse.Namespace, to_judge: Sequence[Candidate], problems: Sequence[Problem]
) -> Iterator[_Sweep]:
    """The sweeps to run, grouped by the kind of their problems."""

    def kind(each: Problem) -> tuple:
        return (*each.tables.shape[1:], each.softening)

    for _, group in groupby(sorted(problems, key=kind), key=kind):
        alike = list(group)
        for candidate in to_judge:
            for form in _forms(options, candidate, alike):
                yield _Sweep(candidate, form, alike)


def _forms(
    options: argparse.Namespace, candidate: Candidate, problems: Sequence[Problem]
) -> Iterator[bool]:
    """The forms to run a rule in: False for plain, True for symmetrised; none if it cannot run."""
    if candidate.name == reference.NAME:
        yield False
        return
    try:
        gravity = Gravity(problems[0].softening)
        rule = candidate.controller(gravity)
        for each in problems:
            rule.check_masses(each.tables[..., 0])
    except UserError as error:
        if candidate.model is not None:
            raise
        if options.rules is not None:
            note(f"{candidate.name} is left out of {_names(problems)}: {error}")
        return
    yield False
    kind = candidate.name.partition(":")[0]
    wanted = kind in SYMMETRIZED or (options.symmetrize_all and kind != "fixed")
    if wanted and not rule.irreversible:
        yield True
    elif wanted and kind in SYMMETRIZED:
        note(f"{candidate.name} is not symmetrised: {rule.irreversible}")


def _runs(options: argparse.Namespace, sweep: _Sweep, report: Callable[[float], None]) -> list[Run]:
    candidate, problems, began = sweep.candidate, sweep.problems, time.monotonic()
    report(0.0)
    if candidate.name == reference.NAME:
        runs: Iterable[Run] = (
            run
            for i, each in enumerate(problems)
            for run in _reported(
                reference.ias15(each, options.factors, options.max_steps),
                len(each.tables) * len(options.factors),
                part_of(report, i, len(problems)),
            )
        )
    else:
        rule = candidate.controller(Gravity(problems[0].softening))
        rule = symmetrized(rule) if sweep.symmetrized else rule
        runs = evaluate(
            rule,
            candidate.name,
            sweep.symmetrized,
            problems,
            options.factors,
            options.max_steps,
            report,
            enough=ENOUGH * TARGETS[-1],
        )
    done = list(runs)
    failed = sum(bool(run.failed) for run in done)
    failures = f", {failed} failed" if failed else ""
    note(f"{sweep.label}: {len(done)} runs{failures}, {time.monotonic() - began:.1f} s")
    return done


def _reported(runs: Iterable[Run], count: int, report: Callable[[float], None]) -> Iterator[Run]:
    for done, run in enumerate(runs, 1):
        report(done / count)
        yield run


def _report(bars: Bars, label: str, share: float) -> None:
    bars.show_share("evaluation", share, label)


class _Lines:
    """Writes a line to standard error every few seconds."""

    def __init__(self, label: str) -> None:
        self.label, self.last = label, time.monotonic()

    def __call__(self, share: float) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            note(f"{self.label}: {share:.0%} of the time simulated")


def _names(problems: Sequence[Problem]) -> str:
    names = [each.name for each in problems]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} problems)"


def _write_csv(path: Path, runs: Sequence[Run]) -> None:
    unfinished = path.with_suffix(".part")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(run) for run in runs)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _write_json(path: Path, found: Sequence[Curve], options: argparse.Namespace) -> None:
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    content = {**summary(found), "settings": settings}
    try:
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _print_table(found: Sequence[Curve]) -> None:
    """Prints evaluations per unit at each target: < if fewer may do, - if it is not reached."""
    problems = summary(found)["problems"]
    width = max(len(curve.label) for curve in found)
    keys = [f"{target:g}" for target in TARGETS]
    for name, entry in problems.items():
        print(f"{name}: evaluations per {entry['unit']} for an energy error of")
        print(" " * (width + 2) + "".join(f"{key:>10}" for key in keys))
        for label, rule in entry["rules"].items():
            cells = []
            for key in keys:
                number = rule["evaluations_per_unit"][key]
                sign = "<" if key in rule["at_most"] else ""
                cells.append("-" if number is None else f"{sign}{number:.4g}")
            print(f"  {label:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    print("<: the longest steps tried do already; -: the shortest do not")
