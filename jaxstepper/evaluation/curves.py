"""Work-precision curves of runs, and what they need for an error (numpy, on the host)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxstepper.evaluation.run import Run, label_of

TINY = np.finfo(float).tiny


@dataclass(frozen=True, eq=False)
class Curve:
    """A rule on a scheme, on B systems, at F factors from the longest steps to the shortest.

    Attributes:
        problem: the problem's name.
        rule: the rule's name.
        scheme: what takes the steps.
        symmetrized: whether the rule was symmetrised.
        reversible: whether rule and scheme together are time-reversible.
        unit: the unit that evaluations are counted per.
        judged_by: "energy" or "position".
        factors: `[F]`.
        evaluations_of: `[F, B]`, evaluations per unit.
        errors_of: `[F, B]`, the errors that count; a failed run counts as infinite.
        position_errors_of: `[F, B]`; NaN where positions are not compared.
        failed: `[F]`, the number of runs that failed.
        seconds_per_evaluation: `[F]`, medians over the runs that were timed; the same as at the
            nearest factor where none was, and NaN if none was at all.
    """

    problem: str
    rule: str
    scheme: str
    symmetrized: bool
    reversible: bool
    unit: str
    judged_by: str
    factors: Float[np.ndarray, " F"]
    evaluations_of: Float[np.ndarray, "F B"]
    errors_of: Float[np.ndarray, "F B"]
    position_errors_of: Float[np.ndarray, "F B"]
    failed: Int[np.ndarray, " F"]
    seconds_per_evaluation: Float[np.ndarray, " F"]

    @property
    def label(self) -> str:
        """The rule's name, what it is on, and whether it was symmetrised."""
        return label_of(self.rule, self.scheme, self.symmetrized)

    @property
    def evaluations(self) -> Float[np.ndarray, " F"]:
        """Evaluations per unit, as medians over systems."""
        return np.median(self.evaluations_of, axis=1)

    @property
    def seconds(self) -> Float[np.ndarray, " F"]:
        """Seconds per unit, alone; NaN if no run was timed."""
        return self.evaluations * self.seconds_per_evaluation

    @cached_property
    def errors(self) -> Float[np.ndarray, " F"]:
        """Errors, as medians over systems."""
        return np.median(self.errors_of, axis=1)

    @property
    def position_errors(self) -> Float[np.ndarray, " F"]:
        """Position errors at the end, as medians over systems; NaN where they are not compared."""
        return np.median(self.position_errors_of, axis=1)

    def quantiles(self, q: float) -> Float[np.ndarray, " F"]:
        """The quantiles of errors over systems."""
        # The nearest value, since none lies between a number and infinity.
        return np.quantile(self.errors_of, q, axis=1, method="nearest")


def curves(runs: Iterable[Run]) -> list[Curve]:
    """One curve for each rule on each problem, in the order of their first runs."""
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        key = (run.problem, run.rule, run.scheme, run.symmetrized)
        found.setdefault(key, []).append(run)
    return [_curve(each) for each in found.values()]


def _curve(runs: Sequence[Run]) -> Curve:
    runs = sorted(runs, key=lambda run: (-run.factor, run.system))
    groups = [list(group) for _, group in groupby(runs, key=lambda run: run.factor)]
    # Drop steps so short that some runs met the cap on steps.
    while len(groups) > 1 and any(run.failed == "steps" for run in groups[-1]):
        groups.pop()

    def of_runs(value: Callable[[Run], float]) -> Float[np.ndarray, "F B"]:
        return np.array([[value(run) for run in group] for group in groups])

    first = runs[0]
    return Curve(
        problem=first.problem,
        rule=first.rule,
        scheme=first.scheme,
        symmetrized=first.symmetrized,
        reversible=first.reversible,
        unit=first.unit,
        judged_by=first.judged_by,
        factors=np.array([group[0].factor for group in groups]),
        evaluations_of=of_runs(lambda run: run.evaluations_per_unit),
        errors_of=of_runs(lambda run: run.error),
        position_errors_of=of_runs(lambda run: run.position_error),
        failed=np.array([sum(bool(run.failed) for run in group) for group in groups]),
        seconds_per_evaluation=_filled(of_runs(_seconds_per_evaluation)),
    )


def _seconds_per_evaluation(run: Run) -> float:
    """Of a run's unit of time, so that they make seconds per unit of its evaluations per unit."""
    return run.seconds / run.force_evaluations


def _filled(numbers: Float[np.ndarray, "F B"]) -> Float[np.ndarray, " F"]:
    """The medians of those in each row that are numbers; of the nearest row that has any."""
    known = [i for i, row in enumerate(numbers) if not np.isnan(row).all()]
    if not known:
        return np.full(len(numbers), np.nan)
    places = np.arange(len(numbers))
    nearest = np.array(known)[np.argmin(np.abs(places[:, None] - known), axis=1)]
    medians: Float[np.ndarray, " F"] = np.nanmedian(numbers[nearest], axis=1)
    return medians


class Crossing(NamedTuple):
    """Where each of R curves reaches an error for good.

    All shorter steps reach the error too, so that a lucky factor does not count.

    Attributes:
        reached: `[R]`, whether it does at all.
        first: `[R]`, the index of the longest steps from which on all reach it.
        share: `[R]`, how far it is from the steps before to those, in the logarithm of the error.
        at_most: `[R]`, whether fewer evaluations might do, because the longest steps that were
            tried and did not fail already reach it.
    """

    reached: Bool[np.ndarray, " R"]
    first: Int[np.ndarray, " R"]
    share: Float[np.ndarray, " R"]
    at_most: Bool[np.ndarray, " R"]


def crossings(errors: Float[np.ndarray, "R F"], target: float) -> Crossing:
    """Where curves reach an error."""
    passes = errors <= target
    first = errors.shape[1] - np.cumprod(passes[:, ::-1], axis=1).sum(axis=1)
    reached = passes[:, -1]
    here, before = _taken(errors, first), _taken(errors, first - 1)
    edge = (first == 0) | ~np.isfinite(before)
    with np.errstate(all="ignore"):
        share = np.log(target / before) / np.log(np.maximum(here, TINY) / before)
    return Crossing(reached, first, np.where(edge | ~reached, 1.0, share), reached & edge)


def _taken(values: Float[np.ndarray, "R F"], index: Int[np.ndarray, " R"]) -> np.ndarray:
    """The value of each row at an index, which is moved into range."""
    return values[np.arange(len(values)), np.clip(index, 0, values.shape[1] - 1)]


def at_crossing(values: Float[np.ndarray, "R F"], where: Crossing) -> Float[np.ndarray, " R"]:
    """Values where an error is reached, interpolated in log-log; NaN where it is not."""
    logs = np.log(np.maximum(values, TINY))
    before, here = _taken(logs, where.first - 1), _taken(logs, where.first)
    between = before + where.share * (here - before)
    return np.where(where.reached, np.exp(between), np.nan)


def work_at(
    errors: Float[np.ndarray, "R F"], work: Float[np.ndarray, "R F"], target: float
) -> Float[np.ndarray, " R"]:
    """The work needed to reach an error: `at_crossing`, or less where shorter steps took less."""
    where = crossings(errors, target)
    later = np.arange(errors.shape[1]) >= where.first[:, None]
    cheapest = np.min(np.where(later, work, np.inf), axis=1)
    return np.minimum(at_crossing(work, where), cheapest)


def evaluations_at(curve: Curve, target: float) -> tuple[float | None, bool]:
    """Evaluations per unit that a rule needs to reach an error, interpolated in log-log.

    Returns:
        The number, or None if even the shortest steps miss the error; and whether fewer might do.
    """
    at_most = crossings(curve.errors[None], target).at_most[0]
    return _number(work_at(curve.errors[None], curve.evaluations[None], target)), bool(at_most)


def seconds_at(curve: Curve, target: float) -> float | None:
    """Seconds per unit that a rule needs, as `evaluations_at`; None also if it was not timed."""
    return _number(work_at(curve.errors[None], curve.seconds[None], target))


def position_error_at(curve: Curve, target: float) -> float | None:
    """The position error at the end, where an error is reached; None where there is none."""
    where = crossings(curve.errors[None], target)
    return _number(at_crossing(curve.position_errors[None], where))


def factor_at(curve: Curve, target: float) -> float | None:
    """The largest factor from which on the error is reached; None if it is not."""
    where = crossings(curve.errors[None], target)
    return float(curve.factors[where.first[0]]) if where.reached[0] else None


def _number(one: Float[np.ndarray, " 1"]) -> float | None:
    return float(one[0]) if np.isfinite(one[0]) else None
