"""Work-precision curves of runs, and a summary (numpy, on the host)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np

from jaxstepper.evaluation.measure import Run

TARGETS = (1e-2, 1e-3, 1e-4)
# These bring their own integrator; all others are rules for the leapfrog.
OWN_INTEGRATOR = ("ias15", "logarithmic-hamiltonian")
COLUMNS = tuple(field.name for field in fields(Run))


@dataclass(frozen=True, eq=False)
class Curve:
    """A rule on a problem at F factors, from its longest steps to its shortest.

    Attributes:
        problem: the problem's name.
        rule: the rule's name.
        symmetrized: whether the rule was symmetrised.
        unit: the unit that evaluations are counted per.
        factors: `[F]`.
        evaluations: `[F]`, evaluations per unit, as medians over systems.
        errors: `[F]`, largest energy errors, as medians over systems; a failed run counts as
            infinite.
        low: `[F]`, the 16 % quantiles of those errors over systems.
        high: `[F]`, the 84 % quantiles.
        seconds: `[F]`, wall-clock seconds, as medians over systems.
        failed: `[F]`, the number of runs that failed.
    """

    problem: str
    rule: str
    symmetrized: bool
    unit: str
    factors: np.ndarray
    evaluations: np.ndarray
    errors: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seconds: np.ndarray
    failed: np.ndarray

    @property
    def label(self) -> str:
        """The rule's name, and whether the rule was symmetrised."""
        return self.rule + (", symmetrized" if self.symmetrized else "")


def curves(runs: Iterable[Run]) -> list[Curve]:
    """One curve for each rule on each problem, in the order of their first runs."""
    found: dict[tuple[str, str, bool], list[Run]] = {}
    for run in runs:
        found.setdefault((run.problem, run.rule, run.symmetrized), []).append(run)
    return [_curve(each) for each in found.values()]


def _curve(runs: Sequence[Run]) -> Curve:
    runs = sorted(runs, key=lambda run: -run.factor)
    groups = [list(group) for _, group in groupby(runs, key=lambda run: run.factor)]
    # Drop steps so short that some runs met the cap on steps.
    while len(groups) > 1 and any(run.failed == "steps" for run in groups[-1]):
        groups.pop()
    errors = [[math.inf if run.failed else run.max_error for run in group] for group in groups]

    def quantile(q: float) -> np.ndarray:
        # The nearest value, since none lies between a number and infinity.
        return np.array([np.quantile(each, q, method="nearest") for each in errors])

    return Curve(
        problem=runs[0].problem,
        rule=runs[0].rule,
        symmetrized=runs[0].symmetrized,
        unit=runs[0].unit,
        factors=np.array([group[0].factor for group in groups]),
        evaluations=np.array([np.median([r.evaluations_per_unit for r in g]) for g in groups]),
        errors=np.array([np.median(each) for each in errors]),
        low=quantile(0.16),
        high=quantile(0.84),
        seconds=np.array([np.median([r.seconds for r in group]) for group in groups]),
        failed=np.array([sum(bool(run.failed) for run in group) for group in groups]),
    )


def evaluations_at(curve: Curve, target: float) -> tuple[float | None, bool]:
    """Evaluations per unit that the rule needs to reach an error, interpolated in log-log.

    All shorter steps must reach the error too, so that a lucky factor does not count.

    Returns:
        The number, or None if even the shortest steps miss the error; and whether fewer might do,
        because the longest steps that were tried and did not fail already reach it.
    """
    passes = curve.errors <= target
    if not passes[-1]:
        return None, False
    first = 0 if passes.all() else len(passes) - int(np.argmin(passes[::-1]))
    work, errors = curve.evaluations, np.maximum(curve.errors, np.finfo(float).tiny)
    cheapest = float(np.min(work[first:]))
    if first == 0 or not np.isfinite(errors[first - 1]):
        return cheapest, True
    share = math.log(target / errors[first - 1]) / math.log(errors[first] / errors[first - 1])
    logs = np.log(work[[first - 1, first]])
    return min(cheapest, float(np.exp(logs[0] + share * (logs[1] - logs[0])))), False


def summary(all_curves: Sequence[Curve]) -> dict[str, Any]:
    """For each problem and rule, evaluations per unit at each target and their ratio to the best.

    `ratio_to_best` compares with the best of all rules, `ratio_to_best_leapfrog` with the best of
    those for the leapfrog; the best itself has 1. A target that a rule misses has None.
    """
    problems: dict[str, Any] = {}
    for curve in all_curves:
        entry = problems.setdefault(curve.problem, {"unit": curve.unit, "rules": {}})
        needed = {f"{target:g}": evaluations_at(curve, target) for target in TARGETS}
        entry["rules"][curve.label] = {
            "evaluations_per_unit": {key: number for key, (number, _) in needed.items()},
            "at_most": [key for key, (_, fewer_may_do) in needed.items() if fewer_may_do],
            "own_integrator": curve.rule in OWN_INTEGRATOR,
            "failed_runs": int(curve.failed.sum()),
        }
    for entry in problems.values():
        _add_ratios(entry["rules"])
    return {"targets": list(TARGETS), "problems": problems}


def _add_ratios(rules: dict[str, Any]) -> None:
    leapfrogs = [each for each in rules.values() if not each["own_integrator"]]
    for name, others in (("ratio_to_best", rules.values()), ("ratio_to_best_leapfrog", leapfrogs)):
        for key in (f"{target:g}" for target in TARGETS):
            numbers = [each["evaluations_per_unit"][key] for each in others]
            best = min((number for number in numbers if number is not None), default=None)
            for each in rules.values():
                mine = each["evaluations_per_unit"][key]
                ratio = None if mine is None or best is None else mine / best
                each.setdefault(name, {})[key] = ratio
