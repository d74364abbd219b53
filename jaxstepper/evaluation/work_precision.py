"""What rules need for an error, and how they compare: the summary that `evaluate` writes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxstepper.evaluation.bootstrap import CONFIDENCE, ratio_interval
from jaxstepper.evaluation.curves import (
    Curve,
    evaluations_at,
    position_error_at,
    seconds_at,
)
from jaxstepper.evaluation.run import LEAPFROG, is_learned

TARGETS = (1e-2, 1e-3, 1e-4)

# Those, of all on the same problem, that a curve is compared with the best of.
GROUPS: dict[str, Callable[[Curve, Curve], bool]] = {
    "best": lambda mine, other: True,
    "best_classical": lambda mine, other: not is_learned(other.rule),
    "best_classical_on_scheme": lambda mine, other: (
        not is_learned(other.rule) and other.scheme == mine.scheme
    ),
    "best_leapfrog": lambda mine, other: other.scheme == LEAPFROG,
}


def summary(all_curves: Sequence[Curve], targets: Sequence[float] = TARGETS) -> dict[str, Any]:
    """For each problem and rule, the work needed for each target, and its ratio to the best.

    `ratio_to_best` is the ratio of evaluations to those of the best of all, `_classical` of all
    that are not learned, `_classical_on_scheme` of those on the same scheme, `_leapfrog` of all on
    the leapfrog. The best itself has 1. The interval beside each is that of `ratio_interval`,
    against the rule that is best on all systems; an end that is infinite is None. A target that a
    rule misses has None.
    """
    problems: dict[str, Any] = {}
    for name in dict.fromkeys(curve.problem for curve in all_curves):
        mine = [curve for curve in all_curves if curve.problem == name]
        rules = {curve.label: _needs(curve, targets) for curve in mine}
        for target in targets:
            _add_ratios(mine, rules, target)
        first = mine[0]
        problems[name] = {
            "unit": first.unit,
            "judged_by": first.judged_by,
            "systems": first.errors_of.shape[1],
            "rules": rules,
        }
    return {"targets": list(targets), "confidence": CONFIDENCE, "problems": problems}


def key_of(target: float) -> str:
    """The key of a target in a summary."""
    return f"{target:g}"


def _needs(curve: Curve, targets: Sequence[float]) -> dict[str, Any]:
    """What a rule needs for each target."""
    reached = {key_of(target): evaluations_at(curve, target) for target in targets}
    return {
        "rule": curve.rule,
        "scheme": curve.scheme,
        "symmetrized": curve.symmetrized,
        "evaluations_per_unit": {key: number for key, (number, _) in reached.items()},
        "at_most": [key for key, (_, fewer_may_do) in reached.items() if fewer_may_do],
        "seconds_per_unit": {key_of(t): seconds_at(curve, t) for t in targets},
        "position_error": {key_of(t): position_error_at(curve, t) for t in targets},
        "failed_runs": int(curve.failed.sum()),
    }


def _add_ratios(all_curves: Sequence[Curve], rules: dict[str, Any], target: float) -> None:
    """Adds to every rule the ratios to the best of each group at a target, and their intervals."""
    key = key_of(target)

    def needs(curve: Curve) -> Any:
        return rules[curve.label]["evaluations_per_unit"][key]

    able = [curve for curve in all_curves if needs(curve) is not None]
    for curve in all_curves:
        entry = rules[curve.label]
        for group, belongs in GROUPS.items():
            others = [other for other in able if belongs(curve, other)]
            ratio = interval = None
            if curve in able and others:
                best = min(others, key=needs)
                ratio = needs(curve) / needs(best)
                interval = ratio_interval(curve, best, target)
            entry.setdefault(f"ratio_to_{group}", {})[key] = ratio
            entry.setdefault(f"interval_to_{group}", {})[key] = interval and [
                end if math.isfinite(end) else None for end in interval
            ]
