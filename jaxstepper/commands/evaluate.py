"""What `evaluate` does: runs step-size rules on problems, and writes the results."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxstepper.commands.evaluate_arguments import LONGEST, SHORTEST, parse_evaluate
from jaxstepper.commands.evaluate_methods import Candidate, Sweep, candidates, sweeps
from jaxstepper.commands.evaluate_output import tables, write_csv, write_json
from jaxstepper.commands.rollout_words import warn_of_domain, warn_of_unbound
from jaxstepper.errors import UserError
from jaxstepper.evaluation.curves import curves
from jaxstepper.evaluation.method import Method, timed
from jaxstepper.evaluation.problems import Problem, problem, problem_of
from jaxstepper.evaluation.run import Run
from jaxstepper.evaluation.work_precision import summary
from jaxstepper.physics.units import read_units
from jaxstepper.pictures.work_precision_picture import plot_work_precision
from jaxstepper.reporting.bars import Bars, open_bars, part_of
from jaxstepper.reporting.note import note, result
from jaxstepper.runs.bodies import read_bodies
from jaxstepper.runs.jax_setup import configure_jax
from jaxstepper.runs.places import check_folder_place
from jaxstepper.settings.config import Config

SECONDS_BETWEEN_LINES = 10.0
# Errors below this fraction of the smallest target tell nothing new.
ENOUGH = 0.5


def run_evaluate(arguments: list[str]) -> int:
    """`evaluate [flags]`; returns the exit code."""
    options = parse_evaluate(arguments)
    if options.batch > 1 and not options.time:
        raise UserError(f"--batch {options.batch}: is for times, and --no-time takes none")
    out = _folder(options.out)
    configure_jax(Config(device=options.device, compilation_cache=options.compilation_cache))
    to_judge = candidates(options)
    problems = _problems(options)
    _warn_of_domains(to_judge, problems)
    runs: list[Run] = []
    with open_bars(options.quiet) as bars:
        to_run = list(sweeps(options, to_judge, problems))
        if not to_run:
            raise UserError("no rule of --rules can run on these problems")
        for i, sweep in enumerate(to_run):
            report = part_of(partial(_report, bars, sweep.label), i, len(to_run))
            lines = _Lines(sweep.label, options.quiet)
            runs += _runs(options, sweep, report if bars.are_shown else lines)
            out.mkdir(parents=True, exist_ok=True)
            # Rewritten after each rule, so that finished work is never lost.
            write_csv(out / "runs.csv", runs)
    _conclude(options, out, runs)
    return 0


def _problems(options: argparse.Namespace) -> list[Problem]:
    """The problems by name; bodies of files in their units."""
    if options.units and options.G is not None:
        raise UserError(f"--G {options.G}: and units both say what G is; give one of them")
    units = read_units(options.units, "--units") if options.units else None
    G = units.G if units is not None else options.G or 1.0
    softening = options.softening or 0.0
    of_files = [name for name in options.problems if Path(name).is_file()]
    if not of_files and (G != 1 or softening != 0):
        rule = "the other problems have G = 1, and a softening of their own"
        raise UserError(f"--units, --G and --softening are for bodies of files; {rule}")

    def found(name: str) -> Problem:
        end_time = options.end_time
        if name not in of_files:
            return problem(name, options.orbits, options.seed, end_time, options.systems)
        if end_time is None:
            raise UserError(f"--problems {name}: bodies of a file run for --end-time T; give it")
        bodies = read_bodies(name, units=units, G=G).table
        mine = problem_of(name, bodies, end_time, G, softening)
        warn_of_unbound(name, mine.tables, softening, G)
        return mine

    return [found(name) for name in options.problems]


def _warn_of_domains(to_judge: Sequence[Candidate], problems: Sequence[Problem]) -> None:
    """Warns of every model that is not known to suit a problem."""
    for candidate in to_judge:
        if candidate.model is None:
            continue
        for each in problems:
            name = f"{candidate.name} on {each.name}"
            warn_of_domain(candidate.model, name, each.tables, each.softening)


def _folder(path: str) -> Path:
    out = Path(path)
    if (out / "runs.csv").exists():
        raise UserError(f"--out {out}: holds an evaluation already; name another folder")
    check_folder_place(out, f"--out {out}")
    return out


def _conclude(options: argparse.Namespace, out: Path, runs: list[Run]) -> None:
    """Writes and prints what the runs come to."""
    all_curves = curves(runs)
    found = summary(all_curves, options.targets)
    write_json(out / "summary.json", found, options)
    result(*tables(found, options.batch), out / "runs.csv", out / "summary.json")
    try:
        plot_work_precision(all_curves, out / "work-precision.png")
        result(out / "work-precision.png")
    except UserError as error:
        note(f"no figure: {error}", quiet=options.quiet)


def _runs(options: argparse.Namespace, sweep: Sweep, report: Callable[[float], None]) -> list[Run]:
    method, problems, began = sweep.method, sweep.problems, time.monotonic()
    report(0.0)
    enough = ENOUGH * min(options.targets)
    factors = _factors(options, method)
    runs = list(method.runs(problems, factors, options.max_steps, enough, report))
    if options.time:
        runs = timed(method, problems, runs, options.targets, options.max_steps, options.batch)
    failed = Counter(run.failed for run in runs if run.failed)
    failures = "".join(f", {count} failed ({why})" for why, count in sorted(failed.items()))
    took = f"{time.monotonic() - began:.1f} s"
    note(f"{sweep.label}, {len(runs)} runs{failures}, {took}", quiet=options.quiet)
    return runs


def _factors(options: argparse.Namespace, method: Method) -> list[float]:
    """The factors on the steps; by default the same for the time that one evaluation is worth."""
    if options.factors is not None:
        return list(options.factors)
    factors = np.geomspace(LONGEST, SHORTEST, options.num_factors) * method.evaluations
    return [float(factor) for factor in factors]


def _report(bars: Bars, label: str, share: float) -> None:
    bars.show_share("evaluation", share, label)


class _Lines:
    """Writes a line to standard error every few seconds."""

    def __init__(self, label: str, quiet: bool) -> None:
        self.label, self.quiet, self.last = label, quiet, time.monotonic()

    def __call__(self, share: float) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            note(f"{self.label}: {share:.0%} of the time simulated", quiet=self.quiet)
