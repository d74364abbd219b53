"""Methods that are compared: which run, how they are timed, and rebound's beside them."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from jaxstepper.commands.evaluate_arguments import parse_evaluate
from jaxstepper.commands.evaluate_methods import candidates, sweeps
from jaxstepper.evaluation import timing
from jaxstepper.evaluation.curves import curves
from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.method import Method, timed
from jaxstepper.evaluation.problems import problem
from jaxstepper.evaluation.rebound_peers import ReboundLeapfrog
from jaxstepper.evaluation.run import Run
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.rule import fixed


def methods(flags, name="kepler-0.5"):
    options = parse_evaluate(flags.split())
    return [sweep.method for sweep in sweeps(options, candidates(options), [problem(name)])]


# --- which run -----------------------------------------------------------------------------------


def test_rules_run_on_every_scheme_that_takes_them(capsys):
    found = methods("--rules free-fall huayno ias15 --schemes leapfrog bm4 hermite")
    assert [(each.label, each.evaluations) for each in found] == [
        ("free-fall", 1),
        ("free-fall, symmetrized", 1),
        ("free-fall on bm4", 6),
        ("free-fall on bm4, symmetrized", 6),
        ("free-fall on hermite", 1),
        ("huayno", 1),
        ("huayno on bm4", 6),
        ("huayno on hermite", 1),
        ("ias15", 1),
    ]
    assert "free-fall on hermite is not symmetrised: Hermite's" in capsys.readouterr().err


def test_the_logarithmic_hamiltonian_keeps_its_scheme():
    (found,) = methods("--rules logarithmic-hamiltonian --schemes chin bm4")
    assert (found.label, found.scheme) == ("logarithmic-hamiltonian", "logarithmic")


def test_what_is_reversible_is_known_from_rule_and_scheme():
    flags = "--rules fixed free-fall hairer-soderlind logarithmic-hamiltonian"
    found = {each.label: each.chosen.reversible for each in methods(f"{flags} --schemes chin")}
    assert found == {
        "fixed on chin": True,
        "free-fall on chin": False,
        "free-fall on chin, symmetrized": True,
        "hairer-soderlind on chin": True,
        "logarithmic-hamiltonian": True,
    }
    assert not any(each.chosen.reversible for each in methods("--rules fixed --schemes hermite"))


# --- seconds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted(Method):
    """A method whose run at factor f takes f seconds; it notes what was timed."""

    rule: str = "counted"
    asked: list = field(default_factory=list)

    def seconds(self, problem, systems, factor, max_steps):
        self.asked.append((factor, *systems))
        return factor * len(systems)


def run(system, factor, error):
    return Run(
        problem="triples",
        system=system,
        rule="counted",
        scheme="leapfrog",
        symmetrized=False,
        reversible=False,
        factor=factor,
        steps=99,
        force_evaluations=100,
        evaluations_per_unit=10 / factor,
        unit="time",
        max_error=error,
        median_error=error,
        final_error=error,
        position_error=math.nan,
        judged_by="energy",
        angular_momentum_error=0.0,
        seconds=math.nan,
        failed="",
    )


def test_three_systems_are_timed_at_the_factors_that_reach_the_targets():
    factors = (4.0, 2.0, 1.0, 0.5)
    runs = [run(i, factor, 1e-3 * factor**2) for factor in factors for i in range(5)]
    method, triples = Counted(), problem("triples", systems=5)
    # 1.6e-2, 4e-3, 1e-3, 2.5e-4
    found = timed(method, [triples], runs, [1e-2, 9e-4], 1000)
    assert method.asked == [(factor, i) for factor in (2.0, 0.5) for i in range(3)]
    (curve,) = curves(found)
    # The others get the cost of an evaluation at the nearest factor that was timed.
    np.testing.assert_allclose(curve.seconds_per_evaluation, [0.02, 0.02, 0.02, 0.005])
    np.testing.assert_allclose(curve.seconds, curve.seconds_per_evaluation * [2.5, 5, 10, 20])
    method.asked.clear()
    timed(method, [triples], runs, [1e-9], 1000)
    assert {factor for factor, _ in method.asked} == {0.5}


def test_a_batch_is_timed_as_one_and_shared_by_work():
    """Of two systems, five side by side: three of the first, which takes twice the evaluations."""
    runs = [run(i, factor, 1e-3 * factor**2) for factor in (2.0, 1.0) for i in range(2)]
    runs = [replace(each, force_evaluations=200 - 100 * each.system) for each in runs]
    method, triples = Counted(), problem("triples", systems=2)
    long, short, *finer = timed(method, [triples], runs, [5e-3], 1000, batch=5)
    assert method.asked == [(2.0, 0, 1, 0, 1, 0)]
    assert (long.seconds, short.seconds) == pytest.approx(
        (2.0 * 5 * 200 / 800, 2.0 * 5 * 100 / 800)
    )
    assert all(math.isnan(each.seconds) for each in finer)


def test_short_runs_are_repeated_and_the_fastest_counts(monkeypatch):
    clock = iter([0.0, 0.2, 1.0, 1.05, 2.0, 2.1, 10.0, 12.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.fastest(lambda: None) == pytest.approx(0.05)
    assert timing.fastest(lambda: None) == pytest.approx(2.0)


def test_a_run_alone_goes_to_its_end():
    pair = problem("kepler-0.5", orbits=20)
    short, long = (
        timing.seconds_of(rules.free_fall(0.01), pair, [0], factor, 10**6) for factor in (50, 0.02)
    )
    assert 0 < 20 * short < long


def test_a_batch_goes_to_the_end_of_its_longest_run(monkeypatch):
    """Side by side, systems take as many steps as the one that needs most of them."""
    taken = []
    triples, rule = problem("triples", end_time=3.0, systems=3), rules.free_fall(0.05)
    monkeypatch.setattr(timing, "in_bounded_calls", counted_calls(taken))
    timing.seconds_of(rule, triples, [0, 1, 2, 0], 1.0, 10**6)
    runs = evaluate(rule, "free-fall", False, [triples], [1.0], 10**6)
    assert taken[-1] == max(each.steps for each in runs)


def counted_calls(taken):
    def in_calls(call, first, largest):
        steps, goes_on = 0, True
        while goes_on:
            more, goes_on = call(7 if largest else 0)
            steps += more
        taken.append(steps)

    return in_calls


# --- individual steps --------------------------------------------------------------------------


def test_individual_steps_are_measured_as_shared_ones_are():
    spheres = problem("plummer-8", end_time=2.0, systems=2)
    (method,) = methods("--rules aarseth", "plummer-8")
    assert method.label == "aarseth on hermite, individual"
    rough, _, fine, _ = method.runs([spheres], [4.0, 1.0], 10**6, 0.0, lambda share: None)
    assert (rough.failed, fine.failed, fine.unit) == ("", "", "time")
    # Hermite's steps are of fourth order, but shorter by a power of two only.
    assert fine.max_error < rough.max_error / 50
    assert 2 < fine.evaluations_per_unit / rough.evaluations_per_unit < 8
    # Fewer passes than times at which bodies took steps, since not all of them did.
    assert 1 < fine.force_evaluations < 0.9 * fine.steps
    assert fine.final_error <= fine.max_error
    assert fine.evaluations_per_unit == fine.force_evaluations / 2
    assert fine.angular_momentum_error < 1e-5
    assert method.seconds(spheres, [0], 1.0, 10**6) > 0
    assert method.seconds(spheres, [0, 1, 0], 1.0, 10**6) > 0


def test_few_bodies_have_individual_steps_only_when_asked():
    by_default = "--problems kepler-0.5 --schemes leapfrog"
    assert "aarseth" not in [each.rule for each in methods(by_default)]
    assert "aarseth" in [each.rule for each in methods(by_default, "plummer-8")]


# --- rebound -------------------------------------------------------------------------------------


def test_rebounds_leapfrog_is_a_leapfrog_with_a_constant_step():
    pair, ignore = problem("kepler-0.5", orbits=3), lambda share: None
    rough, fine = ReboundLeapfrog().runs([pair], [2.0, 1.0], 10**6, 0.0, ignore)
    assert (rough.steps, fine.steps) == (943, 1885)
    assert (rough.force_evaluations, fine.force_evaluations) == (943, 1885)
    assert fine.max_error == pytest.approx(rough.max_error / 4, rel=0.01)
    assert fine.position_error == pytest.approx(rough.position_error / 4, rel=0.05)
    assert ReboundLeapfrog().seconds(pair, [0], 1.0, 10**6) > 0
    # It drifts first, ours kicks first; the errors are of the same order.
    (ours,) = evaluate(fixed(0.01), "fixed", False, [pair], [1.0], 10**6)
    assert 0.1 < fine.max_error / ours.max_error < 10


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["triples", "triples-unequal", "virial-3"])
def test_triples_are_in_virial_equilibrium_in_henon_units(name):
    mine = problem(name)
    assert (mine.tables.shape, mine.end_time, mine.regular) == ((64, 3, 7), 30.0, False)
    mass, x, v = mine.tables[..., 0], mine.tables[..., 1:4], mine.tables[..., 4:]
    np.testing.assert_allclose(mass.sum(axis=1), 1)
    np.testing.assert_allclose(np.einsum("bi,bid->bd", mass, x), 0, atol=1e-14)
    np.testing.assert_allclose(np.einsum("bi,bid->bd", mass, v), 0, atol=1e-14)
    np.testing.assert_allclose(0.5 * np.einsum("bi,bid->b", mass, v**2), 0.25)
    pairs = [(0, 1), (0, 2), (1, 2)]
    potential = sum(
        mass[:, i] * mass[:, j] / np.linalg.norm(x[:, i] - x[:, j], axis=1) for i, j in pairs
    )
    np.testing.assert_allclose(potential, 0.5)
    ratios = mass.max(axis=1) / mass.min(axis=1)
    if name != "triples-unequal":
        np.testing.assert_allclose(ratios, 1)
    else:
        # Of three that are uniform in two decades, the range is one decade in the mean.
        assert 0.8 < np.mean(np.log10(ratios)) < 1.2
        assert ratios.max() < 100


def test_draws_are_held_out_and_the_same_every_time():
    spheres = problem("plummer-64", systems=3)
    np.testing.assert_array_equal(spheres.tables, problem("plummer-64").tables[:3])
    assert not np.allclose(spheres.tables, problem("plummer-64", seed=1, systems=3).tables)
    for seed in (0, 1, 2000):
        assert not np.any(np.isclose(spheres.tables, ics.plummer_batch(seed, 3, 64)).all((1, 2)))
    assert [problem(f"plummer-{n}").end_time for n in (64, 256, 1024)] == [10, 10, 2]


def test_a_planet_circles_one_star_of_a_wide_pair():
    planet = problem("planet-in-binary", orbits=3)
    assert (planet.judged_by, planet.unit, planet.units) == ("position", "orbit", 3)
    star, small, other = planet.tables[0]
    assert star[0] == other[0] == 1
    assert small[0] == 1e-9
    # At pericentre of e = 0.1, and the other star at apocentre of 20 (1 + 0.2).
    assert np.linalg.norm(small[1:3] - star[1:3]) == pytest.approx(0.9)
    assert np.linalg.norm(other[1:3] - star[1:3]) == pytest.approx(24)
