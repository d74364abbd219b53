"""The work-precision protocol: its numbers, its curves, its files."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.commands.evaluate import _problems
from jaxstepper.commands.evaluate_arguments import parse_evaluate
from jaxstepper.commands.evaluate_output import COLUMNS
from jaxstepper.errors import UserError
from jaxstepper.evaluation import measure as protocol
from jaxstepper.evaluation.curves import Curve, curves, evaluations_at
from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.problems import KEPLER, problem, problem_of
from jaxstepper.evaluation.rebound_peers import Ias15
from jaxstepper.evaluation.work_precision import summary
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import pythagorean
from jaxstepper.physics.particles import from_table
from jaxstepper.physics.tables import load_table
from jaxstepper.physics.units import read_units
from jaxstepper.pictures.work_precision_picture import colours_of, work_precision_figure
from jaxstepper.runs.recordings import read_recording
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.recording import record
from jaxstepper.stepping.rollout import Limits
from jaxstepper.stepping.rule import fixed, scaled, symmetrized

GOLDEN = Path(__file__).parents[1] / "golden"
GRAVITY = Gravity()
CAP = 100_000


# --- runs ----------------------------------------------------------------------------------------


def test_kepler_orbits_side_by_side_have_their_known_errors():
    problems = [problem(name) for name in KEPLER]
    rule = symmetrized(rules.free_fall(0.01))
    shares = []
    runs = list(evaluate(rule, "free-fall", True, problems, [5.0, 2.0], CAP, shares.append))
    assert [(r.factor, r.problem) for r in runs] == [(f, n) for f in (5.0, 2.0) for n in KEPLER]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    found = {(r.problem, r.factor): r for r in runs}
    # The published rows for e = 0.9.
    for factor, per_orbit, largest, last in (
        (5, 167, "1.4e-02", "5.1e-08"),
        (2, 418, "2.2e-03", 0),
    ):
        run = found["kepler-0.9", factor]
        assert round(run.evaluations_per_unit) == per_orbit
        assert f"{run.max_error:.1e}" == largest
        assert not last or f"{run.final_error:.1e}" == last
        assert run.force_evaluations == run.steps + 1
        assert run.angular_momentum_error < 1e-11
        assert (run.unit, run.failed) == ("orbit", "")


def test_the_errors_are_those_of_all_states_of_a_rollout():
    three = [problem("figure-eight", end_time=3.0), problem("pythagorean", end_time=0.5)]
    runs = list(evaluate(rules.huayno(0.1), "huayno", False, three, [1.0, 0.5], CAP))
    for run in runs:
        (mine,) = (p for p in three if p.name == run.problem)
        start = from_table(mine.tables[0], GRAVITY.acceleration, jnp.float64)
        rule = scaled(rules.huayno(0.1), run.factor)
        _, path = record(rule, GRAVITY, start, Limits(steps=run.steps))
        errors = np.abs(path.energy[1:] / path.energy[0] - 1)
        assert path.time[-2] < mine.end_time <= path.time[-1] * (1 + 1e-12)
        np.testing.assert_allclose(run.max_error, errors.max(), rtol=1e-7, atol=1e-15)
        np.testing.assert_allclose(run.median_error, np.median(errors), rtol=1e-5, atol=1e-15)
        np.testing.assert_allclose(run.final_error, errors[-1], rtol=1e-5, atol=1e-13)
        assert run.evaluations_per_unit == pytest.approx((run.steps + 1) / mine.end_time)
    assert all(math.isnan(r.angular_momentum_error) for r in runs if r.problem == "pythagorean")


def test_more_bodies_run_factor_by_factor_with_the_same_result(monkeypatch):
    spheres = problem("plummer-8", seed=3, end_time=0.2)
    assert spheres.tables.shape == (10, 8, 7)
    rule = rules.free_fall(0.1, spheres.softening)

    def errors():
        found = evaluate(rule, "free-fall", False, [spheres], [2.0, 1.0], CAP)
        return [(r.system, r.factor, r.steps, r.max_error) for r in found]

    alone = errors()
    monkeypatch.setattr(protocol, "TOGETHER_UP_TO", 8)
    together = errors()
    assert [each[:3] for each in alone] == [each[:3] for each in together]
    np.testing.assert_allclose([e[3] for e in alone], [e[3] for e in together], rtol=1e-6)


def test_more_bodies_go_on_until_their_errors_are_small_enough():
    spheres = problem("plummer-8", seed=3, end_time=0.2)
    rule = rules.free_fall(0.1, spheres.softening)

    def factors(enough):
        runs = evaluate(rule, "", False, [spheres], [0.5, 2.0, 1.0], CAP, enough=enough)
        found = {}
        for run in runs:
            found.setdefault(run.factor, []).append(run.max_error)
        return {factor: np.median(errors) for factor, errors in found.items()}

    every = factors(0.0)
    assert list(every) == [2.0, 1.0, 0.5]
    assert factors(every[1.0]) == {2.0: every[2.0], 1.0: every[1.0]}


def test_runs_that_blow_up_or_never_end_have_failed():
    two = [problem("kepler-0.9", orbits=2)]
    wild, good, short = evaluate(fixed(0.01), "fixed", False, two, [100.0, 1.0, 0.01], 10_000)
    assert (wild.failed, good.failed, short.failed) == ("energy", "", "steps")
    assert wild.steps < 20
    assert not wild.max_error <= 1
    assert short.steps == 10_000


# --- the reference -------------------------------------------------------------------------------


def ias15(problem, factors, max_steps):
    return Ias15().runs([problem], factors, max_steps, 0.0, lambda share: None)


def test_ias15_needs_the_evaluations_it_is_known_to_need():
    (run,) = ias15(problem("kepler-0.9", orbits=20), [1.0], CAP)
    assert run.evaluations_per_unit == pytest.approx(2267, rel=0.02)
    assert run.max_error < 1e-12
    rough, fine = ias15(problem("kepler-0.9", orbits=2), [6.0, 1.0], CAP)
    assert rough.force_evaluations < fine.force_evaluations
    assert rough.max_error > 1e-8
    (capped,) = ias15(problem("kepler-0.9", orbits=2), [1.0], 10)
    assert (capped.failed, capped.steps) == ("steps", 10)


def test_ias15_conserves_the_softened_energy():
    (run, *_) = ias15(problem("plummer-8", end_time=0.5), [1.0], CAP)
    assert run.max_error < 1e-12


# --- curves --------------------------------------------------------------------------------------


def curve(work, errors, rule="free-fall", is_symmetrized=False):
    work, errors = np.array(work, float), np.array(errors, float)
    return Curve(
        problem="kepler-0.9",
        rule=rule,
        scheme="logarithmic" if rule == "logarithmic-hamiltonian" else "leapfrog",
        symmetrized=is_symmetrized,
        reversible=is_symmetrized,
        unit="orbit",
        judged_by="energy",
        factors=1 / work,
        evaluations_of=work[:, None],
        errors_of=errors[:, None],
        position_errors_of=np.full((len(work), 1), math.nan),
        failed=np.zeros(len(work), int),
        seconds_per_evaluation=np.full(len(work), math.nan),
    )


WORK = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])


def test_evaluations_at_an_error_are_interpolated_in_log_log():
    second_order = curve(WORK, 1000.0 / WORK**2)
    number, fewer_may_do = evaluations_at(second_order, 1e-2)
    assert number == pytest.approx(math.sqrt(1e5), rel=1e-12)
    assert not fewer_may_do


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([1, 0.1, 0.05, 0.02, 0.011], (None, False)),
        ([1e-3, 1e-4, 1e-5, 1e-6, 1e-7], (10, True)),
        ([math.inf, math.inf, 1e-3, 1e-4, 1e-5], (100, True)),
        # A lucky setting does not count, nor does one that is followed by failures.
        ([1e-3, 1, 1, 1e-1, 1e-3], (math.sqrt(300e3), False)),
        ([1, 1e-3, 1e-4, 1e-5, math.inf], (None, False)),
    ],
)
def test_evaluations_at_the_edges_of_a_curve(errors, expected):
    number, fewer_may_do = evaluations_at(curve(WORK, errors), 1e-2)
    assert number == (None if expected[0] is None else pytest.approx(expected[0]))
    assert fewer_may_do == expected[1]


def test_a_summary_compares_with_the_best_rule_and_the_best_leapfrog():
    slow, fast = curve(WORK, 1e3 / WORK**2), curve(WORK, 1e2 / WORK**2, is_symmetrized=True)
    exact = curve(WORK, 1e1 / WORK**2, "logarithmic-hamiltonian")
    rules_of = summary([slow, fast, exact])["problems"]["kepler-0.9"]["rules"]
    labels = ["free-fall", "free-fall, symmetrized", "logarithmic-hamiltonian"]
    assert list(rules_of) == labels
    to_best = [rules_of[label]["ratio_to_best"]["0.01"] for label in labels]
    np.testing.assert_allclose(to_best, [10, math.sqrt(10), 1])
    to_leapfrog = [rules_of[label]["ratio_to_best_leapfrog"]["0.01"] for label in labels]
    np.testing.assert_allclose(to_leapfrog, [math.sqrt(10), 1, 1 / math.sqrt(10)])
    assert rules_of["free-fall"]["evaluations_per_unit"]["0.0001"] is None
    assert rules_of["free-fall"]["ratio_to_best"]["0.0001"] is None


def test_a_curve_holds_medians_and_quantiles_and_leaves_out_what_was_cut_off():
    spheres = problem("plummer-8", end_time=0.2)
    rule = rules.free_fall(0.1, spheres.softening)
    runs = list(evaluate(rule, "free-fall", False, [spheres], [0.01, 2.0, 1.0], 1000))
    assert any(run.failed == "steps" for run in runs if run.factor == 0.01)
    (found,) = curves(runs)
    np.testing.assert_array_equal(found.factors, [2.0, 1.0])
    for i, factor in enumerate(found.factors):
        mine = [run for run in runs if run.factor == factor]
        errors = sorted(math.inf if run.failed else run.max_error for run in mine)
        assert found.errors[i] == (errors[4] + errors[5]) / 2
        assert found.quantiles(0.16)[i] == errors[1]
        assert found.quantiles(0.84)[i] == errors[8]
        assert found.evaluations[i] == np.median([run.evaluations_per_unit for run in mine])


def test_a_figure_of_many_panels_is_laid_out(tmp_path):
    # A warning of matplotlib, such as one of a layout that failed, is an error in these tests.
    names = ["kepler-0.1", "kepler-0.9", "pythagorean", "plummer-64", "triple"]
    each = [curve(WORK, [math.inf, 1.0, 1e-2, 1e-4, 1e-14], rule) for rule in ("fixed", "ias15")]
    each.append(curve(WORK, np.full(5, math.inf), "failed"))
    spread = [1.0, 10.0, 100.0]
    wide = [
        replace(
            c,
            errors_of=c.errors_of * spread,
            evaluations_of=np.tile(c.evaluations_of, 3),
            position_errors_of=np.tile(c.position_errors_of, 3),
            unit="time",
            seconds_per_evaluation=np.full(5, 1e-6),
        )
        for c in each
    ]
    many = [replace(c, problem=name) for name in names for c in (*each, *wide)]
    figure = work_precision_figure(many)
    figure.savefig(tmp_path / "figure.png")
    (legend,) = figure.legends
    named = {text.get_text() for text in legend.get_texts()}
    assert named == {"fixed", "ias15"}, "what has no data has no entry"


def test_a_rule_has_its_colour_in_every_picture():
    alone = colours_of(["learned:kepler"])
    names = [*rules.BY_NAME, "learned:kepler", "power-law:1.25"]
    among = colours_of(names)
    assert alone.items() <= among.items()
    assert colours_of(names[::-1]) == among
    assert len(set(among.values())) == len(names)
    several = colours_of([f"learned:{number}" for number in range(9)])
    assert sorted(several.values()) == list(range(9))


# --- problems ------------------------------------------------------------------------------------


def test_a_kepler_problem_starts_at_apocentre_and_lasts_whole_orbits():
    kepler = problem("kepler-0.7", orbits=5)
    relative = kepler.tables[0, 1, 1:] - kepler.tables[0, 0, 1:]
    assert np.linalg.norm(relative[:2]) == pytest.approx(1.7)
    assert relative[:2] @ relative[2:] == pytest.approx(0, abs=1e-15)
    assert kepler.end_time == pytest.approx(10 * np.pi)
    start = from_table(kepler.tables[0], GRAVITY.acceleration, jnp.float64)
    assert float(jax.jit(lambda p: total_energy(p, GRAVITY))(start)) == pytest.approx(-1 / 8)
    assert problem("kepler-0.7", end_time=np.pi).units == pytest.approx(0.5)
    assert problem("triple", orbits=2).end_time == pytest.approx(4 * np.pi * np.sqrt(1000 / 3))


def test_bodies_of_ones_own_are_a_problem():
    bodies = pythagorean()
    mine = problem_of("mine", bodies, 2.0, softening=0.1)
    assert (mine.tables.shape, mine.unit, mine.units) == ((1, 3, 5), "time", 2.0)
    assert (mine.end_time, mine.softening) == (2.0, 0.1)
    np.testing.assert_array_equal(mine.tables[0], bodies)
    two = np.stack([bodies, bodies])
    np.testing.assert_array_equal(problem_of("two", two, 2.0).tables, two)
    np.testing.assert_array_equal(
        problem_of("heavy", bodies, 2.0, G=2.0).tables[0, :, 0], [6, 8, 10]
    )
    np.testing.assert_array_equal(bodies, pythagorean())  # not changed by that
    with pytest.raises(UserError, match="mine: bodies 0 and|mine: body 0"):
        problem_of("mine", np.array([[1.0, 0, 0, 0, 0], [1.0, 0, 0, 1, 1]]), 2.0)


@pytest.mark.usefixtures("_in_empty_folder")
def test_the_bodies_of_a_file_may_have_units():
    earth = "m (Msun),x (au),y (au),vx (km/s),vy (km/s)\n1,0,0,0,0\n0,1,0,0,29.7847\n"
    Path("earth.csv").write_text(earth)
    units = read_units("au yr Msun")
    found = problem_of("earth", load_table("earth.csv", units=units), 1.0, units.G)
    # It goes round in a year, 2 pi au, and is held there by G m = 4 pi^2.
    expected = [[4 * np.pi**2, 0, 0, 0, 0], [0, 1, 0, 0, 2 * np.pi]]
    np.testing.assert_allclose(found.tables[0], expected, rtol=1e-4)
    Path("plain.csv").write_text("m,x,y,vx,vy\n1,0,0,0,0\n1e-3,1,0,0,6.28319\n")
    flags = "--problems plain.csv --rules fixed --factors 1 --end-time 1 --no-time"
    for given, out in (("--units au yr Msun", "right"), ("", "wrong")):
        outcome = run_command(f"{flags} {given} --out {out}")
        assert outcome.code == 0
        assert ("plain.csv fly apart" in outcome.err) == (out == "wrong")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.usefixtures("_in_empty_folder")
def test_the_last_states_of_a_rollout_are_a_problem(suffix):
    np.savetxt("three.csv", pythagorean())
    flags = f"--ic-path three.csv --steps 3 --dt 0.25 --softening 0.1 --output rollout{suffix}"
    assert call("simulate --no-compilation-cache", flags).code == 0
    arguments = f"--problems rollout{suffix} three.csv kepler-0.5 --end-time 2 --softening 0.1"
    mine, three, kepler = _problems(parse_evaluate(arguments.split()))
    states = read_recording(f"rollout{suffix}").arrays
    x, v = states["position"][-1], states["velocity"][-1]
    expected = np.hstack([three.tables[0, :, :1], x, v])
    np.testing.assert_array_equal(mine.tables, expected[None])
    assert np.any(mine.tables != three.tables)
    assert (mine.softening, three.softening, kepler.softening) == (0.1, 0.1, 0.0)
    assert mine.end_time == three.end_time == kepler.end_time == 2.0


@pytest.mark.usefixtures("_in_empty_folder")
def test_bodies_of_a_file_need_to_know_how_long_they_run():
    np.savetxt("three.csv", pythagorean())
    assert_refused(run_command("--problems three.csv"), "--problems three.csv", "--end-time T")
    for flags in ("--softening 0.1", "--G 2"):
        assert_refused(run_command(f"--problems kepler-0.5 {flags}"), "for bodies of files")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frog", "there is no problem frog"),
        ("kepler-x", "x is no eccentricity"),
        ("kepler-1.5", r"must be in \[0, 1\)"),
        ("keppler-0.9", "there is no problem keppler-0.9"),
        ("bodies.txt", "there is no problem bodies.txt"),
    ],
)
def test_unknown_problems_are_refused(name, words):
    with pytest.raises(UserError, match=words):
        problem(name)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_command(flags):
    return call("evaluate --no-compilation-cache", flags)


@pytest.mark.usefixtures("_in_empty_folder")
def test_the_command_writes_every_run_a_summary_and_a_figure():
    model = GOLDEN / "torch_plain.pt"
    past = GOLDEN / "torch_history.pt"
    outcome = run_command(
        f"--problems kepler-0.5 --rules free-fall power-law:1.2 acceleration ias15 --orbits 2 "
        f"--factors 8 4 2 1 0.5 0.25 --model {model} --model {past} --no-time --out found/ev"
    )
    assert outcome.code == 0, outcome.err
    forms = {
        "free-fall": 2,
        "power-law:1.2": 2,
        "ias15": 1,
        "learned:torch_plain": 2,
        "learned:torch_history": 1,
    }
    with open("found/ev/runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for name, count in forms.items():
        assert sum(row["rule"] == name for row in rows) == 6 * count
    assert len(rows) == 6 * sum(forms.values())
    content = json.loads(Path("found/ev/summary.json").read_text())
    entry = content["problems"]["kepler-0.5"]
    assert entry["unit"] == "orbit"
    # Published: 138 and, interpolating, the square root of ten less.
    needed = entry["rules"]["free-fall, symmetrized"]["evaluations_per_unit"]
    assert needed["0.001"] == pytest.approx(138, rel=0.02)
    assert content["settings"]["factors"] == [8, 4, 2, 1, 0.5, 0.25]
    symmetrized = entry["rules"]["free-fall, symmetrized"]
    assert 0 < symmetrized["position_error"]["0.001"] < symmetrized["position_error"]["0.01"] < 1
    assert "kepler-0.5: a position error at the end, beside an energy error of" in outcome.out
    assert symmetrized["seconds_per_unit"]["0.001"] is None
    assert "seconds" not in outcome.out
    assert symmetrized["interval_to_best"]["0.001"] is None
    assert Path("found/ev/work-precision.png").read_bytes().startswith(b"\x89PNG")
    assert outcome.out.splitlines()[0].startswith("kepler-0.5: evaluations per orbit")
    assert outcome.out.splitlines()[-1] == "found/ev/work-precision.png"
    assert "acceleration is left out of kepler-0.5" in outcome.err
    assert "learned:torch_history is not symmetrised: its network sees the 2" in outcome.err
    again = run_command("--problems kepler-0.5 --rules fixed --out found/ev")
    assert_refused(again, "found/ev", "holds an evaluation already")


@pytest.mark.usefixtures("_in_empty_folder")
def test_the_command_runs_schemes_times_them_and_gives_intervals():
    outcome = run_command(
        "--problems triples --systems 4 --end-time 1 --rules hairer-soderlind rebound-leapfrog "
        "--schemes chin --factors 16 8 4 2 --targets 1e-1 1e-2 --out found"
    )
    assert outcome.code == 0, outcome.err
    content = json.loads(Path("found/summary.json").read_text())
    assert content["targets"] == [0.1, 0.01]
    entry = content["problems"]["triples"]
    assert entry["systems"] == 4
    found = entry["rules"]["hairer-soderlind on chin"]
    for key in ("0.1", "0.01"):
        assert 0 < found["seconds_per_unit"][key] < 0.1
        low, high = found["interval_to_best"][key]
        assert low <= found["ratio_to_best"][key] <= high
        assert found["position_error"][key] is None
    titles = [line for line in outcome.out.splitlines() if line.startswith("triples: ")]
    assert [title.split(" ")[1] for title in titles] == ["evaluations", "seconds", "evaluations"]
    assert "95% interval" in titles[-1]
    with open("found/runs.csv", newline="") as file:
        timed = [row for row in csv.DictReader(file) if float(row["seconds"]) > 0]
    assert {row["system"] for row in timed} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--rules frog", ("--rules frog", "free-fall")),
        ("--rules power-law:x", ("power-law:x", "x is not a power")),
        ("--problems frog", ("there is no problem frog", "plummer-N")),
        ("--factors 1 0", ("--factors", "must be a number > 0")),
        ("--num-factors 1", ("--num-factors", ">= 2")),
        ("--schemes frog", ("--schemes", "frog", "chin")),
        ("--targets 1e-3 0", ("--targets", "must be a number > 0")),
        ("--systems 0", ("--systems", ">= 1")),
        ("--units au yr --problems star.txt --end-time 1", ("--units au yr", "a mass")),
        ("--units au yr Msun --G 2", ("--G 2.0", "give one of them")),
        ("--G 2", ("--units, --G and --softening are for bodies of files",)),
        ("--model nowhere", ("nowhere",)),
        ("--problems kepler-0.5 --rules acceleration", ("can run",)),
        (
            "--problems star.txt --end-time 1 --rules logarithmic-hamiltonian",
            ("no rule of --rules can run",),
        ),
        ("--problems kepler-0.5 --out /proc/none", ("/proc/none", "cannot be written")),
    ],
)
@pytest.mark.usefixtures("_in_empty_folder")
def test_the_command_refuses_what_it_cannot_do(flags, words):
    Path("star.txt").write_text("1 0 0 0 0\n0 1 0 0 1\n")
    outcome = run_command(flags)
    assert outcome.code == 2
    assert outcome.out == ""
    error = outcome.err.splitlines()[-1]
    assert error.startswith("jaxstepper evaluate: error: ")
    for word in words:
        assert word in error
