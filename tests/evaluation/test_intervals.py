"""Bootstrap intervals of ratios of work, and the curves behind them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from jaxstepper.evaluation.bootstrap import ratio_interval
from jaxstepper.evaluation.curves import Curve, evaluations_at, work_at
from jaxstepper.evaluation.work_precision import summary

WORK = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])


def curve(constants, rule="free-fall", scheme="leapfrog", order=2, work=WORK):
    """The error of system b is constants[b] / work^order."""
    constants = np.asarray(constants, float)
    shape = (len(work), len(constants))
    return Curve(
        problem="triples",
        rule=rule,
        scheme=scheme,
        symmetrized=False,
        reversible=False,
        unit="time",
        judged_by="energy",
        factors=1 / work,
        evaluations_of=np.broadcast_to(work[:, None], shape),
        errors_of=constants / work[:, None] ** order,
        position_errors_of=np.full(shape, math.nan),
        failed=np.zeros(len(work), int),
        seconds_per_evaluation=np.full(len(work), 2e-6),
    )


SYSTEMS = np.geomspace(1, 1e3, 20)


def test_a_rule_compared_with_itself_has_an_interval_of_no_width():
    assert ratio_interval(curve(SYSTEMS), curve(SYSTEMS, "huayno"), 1e-3) == (1, 1)


def test_twice_the_work_on_every_system_is_twice_the_work_on_every_draw():
    slow = replace(curve(SYSTEMS), evaluations_of=2 * curve(SYSTEMS).evaluations_of)
    ends = ratio_interval(slow, curve(SYSTEMS, "huayno"), 1e-3)
    np.testing.assert_allclose(ends, [2, 2], rtol=1e-12)


def test_an_interval_is_that_of_the_median_of_normal_numbers():
    rng = np.random.default_rng(7)
    logs = 0.2 * rng.normal(size=400)
    mine, other = curve(10 * np.exp(2 * logs)), curve(np.full(400, 10.0), "huayno")
    low, high = np.log(ratio_interval(mine, other, 1e-2))
    # The standard error of a median is sqrt(pi / 2) sigma / sqrt(n).
    half = 1.96 * math.sqrt(math.pi / 2) * 0.2 / 20
    assert low < np.median(logs) < high
    assert (high - low) / 2 == pytest.approx(half, rel=0.3)


def test_what_is_hard_for_both_rules_does_not_widen_the_interval():
    rng = np.random.default_rng(7)
    hard = np.exp(3 * rng.normal(size=30))
    mine, other = curve(hard), curve(2 * hard, "huayno")
    low, high = ratio_interval(mine, other, 1e-3)
    assert low == pytest.approx(math.sqrt(0.5), rel=1e-9)
    assert high == pytest.approx(math.sqrt(0.5), rel=1e-9)


def test_misses_and_single_systems():
    assert ratio_interval(curve([1.0]), curve([1.0]), 1e-3) is None
    # A third of the systems never get there, so that in many draws the median does not either.
    mixed = np.where(np.arange(21) < 9, 1e12, 1.0)
    low, high = ratio_interval(curve(mixed), curve(np.ones(21), "huayno"), 1e-3)
    assert low == pytest.approx(1)
    assert high == math.inf


def test_work_of_many_curves_at_once_is_that_of_each_by_hand():
    rng = np.random.default_rng(1)
    errors = np.exp(rng.normal(-5, 3, (200, 5))) * np.geomspace(1, 1e-3, 5)
    errors[rng.random((200, 5)) < 0.1] = math.inf
    work = WORK * rng.uniform(0.5, 2, (200, 5))
    together = work_at(errors, work, 1e-2)
    for i in range(200):
        expected = work_by_hand(errors[i], work[i], 1e-2)
        np.testing.assert_allclose(together[i], expected, rtol=1e-12)


def work_by_hand(errors, work, target):
    if errors[-1] > target:
        return math.nan
    first = len(errors) - 1
    while first > 0 and errors[first - 1] <= target:
        first -= 1
    best = min(work[first:])
    if first == 0 or math.isinf(errors[first - 1]):
        return best
    log = np.log([target, errors[first - 1], errors[first]])
    share = (log[0] - log[1]) / (log[2] - log[1])
    return min(best, work[first - 1] * (work[first] / work[first - 1]) ** share)


def test_a_summary_has_intervals_seconds_and_the_best_of_each_group():
    free_fall = curve(SYSTEMS)
    learned = curve(SYSTEMS / 4, "learned:kepler")
    chin = curve(10 * SYSTEMS, scheme="chin", order=4)
    found = summary([free_fall, learned, chin], [1e-3, 1e-12])["problems"]["triples"]
    assert (found["systems"], found["judged_by"]) == (20, "energy")
    rules = found["rules"]
    assert list(rules) == ["free-fall", "learned:kepler", "free-fall on chin"]
    numbers = {c.label: evaluations_at(c, 1e-3)[0] for c in (free_fall, learned, chin)}
    best_of = {
        "best": "free-fall on chin",
        "best_classical": "free-fall on chin",
        "best_leapfrog": "learned:kepler",
        "best_classical_on_scheme": "free-fall",
    }
    for group, best in best_of.items():
        for label, entry in rules.items():
            if group == "best_classical_on_scheme" and "chin" in label:
                best = label
            ratio = entry[f"ratio_to_{group}"]["0.001"]
            assert ratio == pytest.approx(numbers[label] / numbers[best])
            low, high = entry[f"interval_to_{group}"]["0.001"]
            assert low <= ratio * (1 + 1e-12)
            assert ratio <= high * (1 + 1e-12)
            assert entry[f"ratio_to_{group}"]["1e-12"] is None
            assert entry[f"interval_to_{group}"]["1e-12"] is None
    assert rules["learned:kepler"]["interval_to_best_leapfrog"]["0.001"] == [1, 1]
    for label, entry in rules.items():
        seconds = entry["seconds_per_unit"]["0.001"]
        assert seconds == pytest.approx(2e-6 * numbers[label])
        assert entry["position_error"]["0.001"] is None
