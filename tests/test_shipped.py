"""The steppers that come with the repository: they load, and do what they are there for."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.problems import problem, problem_of
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer, plummer_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.runs.checkpoints import load
from jaxstepper.runs.folders import SHIPPED, locate
from jaxstepper.runs.models import load_criterion, load_model, load_rule, rule_of_model
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.stored import from_dict
from jaxstepper.stepping.criteria import Aarseth
from jaxstepper.stepping.literature import free_fall, hairer_soderlind, huayno
from jaxstepper.stepping.rule import symmetrized
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES
from jaxstepper.training.evolution.trial import try_on_all

ROOT = Path(__file__).parent.parent
SHIPPED_DT = np.load(ROOT / "tests" / "golden" / "shipped_dt.npz")
STEPPERS = SHIPPED
FOR_PAIRS = ["kepler", "kepler_torch"]
OF_FOURTH_ORDER = ["kepler_chin", "kepler_bm4"]
NAMES = [*FOR_PAIRS, "plummer"]
EVERY = [*NAMES, *OF_FOURTH_ORDER, "clusters", "few_bodies", "few_bodies_chin"]
PAIRS = [problem(f"kepler-{e}", orbits=5) for e in (0.5, 0.9)]


def stepper(name, softening=0.0):
    model = load_model(str(STEPPERS / name), "")
    return rule_of_model(from_dict(model.config)[0], model, Gravity(softening))


def work_at_equal_error(rule, problems):
    """Steps times the root of the largest error, for each system; small steps do not change it."""
    runs = evaluate(symmetrized(rule), "", True, problems, [1.0], 20_000)
    return np.array([run.steps * np.sqrt(run.max_error) for run in runs])


@pytest.mark.parametrize("name", FOR_PAIRS)
def test_it_needs_less_work_than_free_fall(name):
    learned, classical = stepper(name), free_fall(0.02)
    assert np.all(work_at_equal_error(learned, PAIRS) < 0.9 * work_at_equal_error(classical, PAIRS))


@pytest.mark.parametrize(
    ("name", "tolerance", "eta"), [("kepler_chin", 1e-3, 0.22), ("kepler_bm4", 1e-4, 0.33)]
)
def test_on_its_scheme_it_needs_less_work_than_free_fall(name, tolerance, eta):
    # With this eta, free fall has about the same error.
    learned = load_rule(STEPPERS / name, tolerance=tolerance)
    assert learned.scheme == SCHEMES[name.removeprefix("kepler_")]

    def work(rule):
        (run,) = evaluate(symmetrized(rule), "", True, PAIRS[1:], [1.0], 20_000)
        assert tolerance / 2 < run.max_error < 2 * tolerance
        return run.steps * run.max_error ** (1 / rule.scheme.order)

    assert work(learned) < 0.96 * work(free_fall(eta).on(learned.scheme))


@pytest.mark.parametrize("name", ["kepler", *OF_FOURTH_ORDER])
@pytest.mark.parametrize("e", [0.99, 0.999])
def test_it_keeps_to_its_tolerance_close_to_a_parabola(name, e):
    rule = symmetrized(load_rule(STEPPERS / name, tolerance=1e-3))
    (run,) = evaluate(rule, "", True, [problem(f"kepler-{e}", orbits=2)], [1.0], 50_000)
    assert 3e-4 < run.max_error < 3e-3


@pytest.mark.slow  # its tolerance, and the steps that it had when it was shipped, stand for it
def test_in_clusters_it_needs_less_work_than_the_rules_of_the_literature():
    spheres = [problem("plummer-32", seed=7, end_time=1.0)]
    softening = spheres[0].softening
    learned = np.log(work_at_equal_error(stepper("plummer", softening), spheres))
    for rule in (free_fall(0.06, softening), huayno(0.12, softening)):
        runs = evaluate(rule, "", False, spheres, [1.0], 20_000)
        plain = np.array([run.steps * np.sqrt(run.max_error) for run in runs])
        assert np.mean(learned - np.log(plain)) < np.log(0.9)
    classical = np.log(work_at_equal_error(free_fall(0.06, softening), spheres))
    assert np.mean(learned - classical) < np.log(0.85)


@pytest.mark.parametrize(
    ("softening", "tolerance"), [(0.0, 1e-3), (0.0, 1e-4), (1e-3, 1e-4), (0.01, 1e-3)]
)
def test_it_keeps_to_its_tolerance_in_a_cluster_with_a_tight_binary(softening, tolerance):
    """Over four of its orbits; the energy of the binary is a quarter of that of the cluster."""
    table = plummer(7, 32, 1, (0.005, 0.005), (0.95, 0.95))
    cluster = problem_of("cluster", table, 0.036, softening=softening)
    rule = symmetrized(load_rule("plummer", Gravity(softening), tolerance=tolerance))
    (run,) = evaluate(rule, "", True, [cluster], [1.0], 20_000)
    assert tolerance / 30 < run.max_error < 3 * tolerance


def test_on_individual_steps_it_needs_less_work_than_aarseths_criterion():
    spheres, etas = jnp.asarray(plummer_batch(7, 4, 32)), jnp.array([0.03, 0.3])
    learned = load_criterion(STEPPERS / "clusters")

    def log_work(criterion):
        stacked = jax.vmap(lambda eta: replace(criterion, eta=eta))(etas)
        return float(try_on_all(stacked, Gravity(0.01), spheres, 1.0).loss)

    assert log_work(learned) - log_work(Aarseth(0.02)) < np.log(0.9)


def test_with_few_bodies_it_needs_less_work_than_huayno_on_the_same_scheme():
    """Of all classical rules the best there; 48 systems, held out, at about the same errors."""
    triples = [problem("triples", seed=7, systems=48, end_time=15.0)]
    learned = load_rule(STEPPERS / "few_bodies", tolerance=1e-4)
    assert learned.scheme == SCHEMES["hermite"]

    def log_work(rule):
        runs = evaluate(rule, "", False, triples, [1.0], 20_000)
        return np.mean([np.log(run.steps) + np.log(run.max_error) / 5 for run in runs])

    assert log_work(learned) - log_work(huayno(0.085).on(learned.scheme)) < np.log(0.92)


# With these etas the rules of the literature have about the same errors.
@pytest.mark.parametrize(("name", "eta"), [("triples", 0.18), ("virial-4", 0.13)])
def test_of_shares_it_needs_far_less_work_than_the_literature_on_the_same_scheme(name, eta):
    """48 systems, held out."""
    held_out = [problem(name, seed=7, systems=48, end_time=15.0)]
    learned = load_rule(STEPPERS / "few_bodies_chin", tolerance=1e-4)
    assert learned.scheme == SCHEMES["chin"]

    def log_work(rule, symmetrize=False):
        chosen = symmetrized(rule) if symmetrize else rule
        runs = list(evaluate(chosen, "", symmetrize, held_out, [1.0], 20_000))
        error = np.array([run.max_error for run in runs])
        assert 2e-5 < np.median(error) < 4e-4
        return np.mean([np.log(run.steps) for run in runs]) + np.mean(np.log(error)) / 4

    for rule in (huayno(eta), hairer_soderlind(eta)):
        assert log_work(learned, True) - log_work(rule.on(learned.scheme)) < np.log(0.8)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5])
def test_of_shares_it_keeps_to_its_tolerance_in_most_systems(tolerance):
    systems = problem("virial-4", seed=7, systems=32)
    rule = symmetrized(load_rule("few_bodies_chin", tolerance=tolerance))
    runs = evaluate(rule, "", True, [systems], [1.0], 20_000)
    assert tolerance / 3 < np.median([run.error for run in runs]) < 3 * tolerance


def test_simulate_takes_its_shared_steps_on_hermite(tmp_path):
    ics = tmp_path / "three.csv"
    assert call("make-ics plummer --num-particles 3 --seed 1 --out", ics).code == 0
    bodies = f"simulate --ic-path {ics} --duration 2 --no-compilation-cache"
    learned = f"--model-path {STEPPERS / 'few_bodies'} --tolerance"
    steps = []
    for tolerance in ("1e-3", "1e-6"):
        outcome = call(bodies, learned, tolerance)
        assert outcome.code == 0, outcome.err
        (report,) = outcome.reports()
        assert report["scheme"] == "hermite"
        assert report["max_energy_error"] < 3 * float(tolerance)
        steps.append(report["steps"])
    assert 3 < steps[1] / steps[0] < 5  # a fifth root of the tolerance
    assert_refused(call(bodies, learned, "1e-3 --symmetrize"), "cannot be symmetrised")
    assert_refused(call(bodies, learned, "1e-3 --scheme chin"), "hermite")
    assert_refused(call("export", STEPPERS / "few_bodies"), "cannot be exported", "pairs inputs")


def test_simulate_takes_its_individual_steps(tmp_path):
    ics = tmp_path / "sphere.csv"
    assert call("make-ics plummer --num-particles 16 --seed 1 --out", ics).code == 0
    bodies = f"simulate --ic-path {ics} --softening 0.01 --duration 0.25 --no-compilation-cache"
    learned = f"--controller learned --model-path {STEPPERS / 'clusters'}"
    outcome = call(bodies, learned, "--scheme hermite --individual")
    assert outcome.code == 0, outcome.err
    assert outcome.reports()[0]["max_energy_error"] < 1e-4
    assert_refused(call(bodies, learned), "individual steps", "--individual")
    other = f"--controller learned --model-path {STEPPERS / 'plummer'}"
    assert_refused(call(bodies, other, "--scheme hermite --individual"), "leave out --individual")


@pytest.mark.parametrize("name", EVERY)
def test_its_name_is_enough_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(name, "checkpoints") == (STEPPERS / name, None)
    assert load_model(name, "checkpoints").variables


@pytest.mark.parametrize("name", EVERY)
def test_it_was_trained_by_its_file(name):
    request = parse("train", ["--config", str(ROOT / f"scripts/configs/{name}.toml")])
    trained, _ = from_dict(load(STEPPERS / name).config)
    for field in request.sources:
        assert getattr(trained, field) == getattr(request.config, field), field
    assert load(STEPPERS / name).epoch == request.config.epochs - 1


@pytest.mark.parametrize("name", [*NAMES, *OF_FOURTH_ORDER])
def test_simulate_follows_it(name, tmp_path):
    ics = tmp_path / "sphere.csv"
    assert call("make-ics plummer --num-particles 32 --seed 1 --out", ics).code == 0
    sphere = f"--ic-path {ics} --softening 0.01 --duration 0.5"
    bodies = sphere if name == "plummer" else "-e 0.7 --Nperiod 2"
    flags = f"--integrator-mode ml --symmetrize --model-path {STEPPERS / name}"
    outcome = call("simulate", flags, bodies, "--no-compilation-cache")
    assert outcome.code == 0
    assert abs(outcome.reports()[0]["energy_residual"]) < 1e-2


def test_simulate_takes_the_tolerance_and_a_softening_it_was_not_trained_with(tmp_path):
    ics = tmp_path / "bodies.csv"
    assert call("make-ics plummer --num-particles 5 --seed 1 --out", ics).code == 0
    flags = f"--integrator-mode ml --model-path {STEPPERS / 'kepler'} --softening 0.01"
    counts = []
    for tolerance in ("1e-3", "1e-5"):
        outcome = call("simulate", flags, "--duration 0.5 --tolerance", tolerance, "--ic-path", ics)
        assert outcome.code == 0, outcome.err
        counts.append(outcome.reports()[0]["steps"])
    assert 8 < counts[1] / counts[0] < 12


def test_simulate_and_evaluate_ask_the_network_about_the_fastest_bodies(tmp_path):
    assert load_rule("plummer", Gravity(0.01)).fastest == 16
    assert load_rule("plummer", Gravity(0.01), fastest=4).fastest == 4
    ics = tmp_path / "sphere.csv"
    assert call("make-ics plummer --num-particles 8 --seed 1 --out", ics).code == 0
    flags = f"--model-path plummer --softening 0.01 --duration 0.5 --ic-path {ics}"
    all_bodies, few = (call("simulate", flags, f"--fastest {k}").reports()[0] for k in (0, 2))
    assert few["max_energy_error"] != all_bodies["max_energy_error"]
    assert few["steps"] == pytest.approx(all_bodies["steps"], rel=0.2)
    done = call(
        "evaluate --problems plummer-4 --end-time 0.1 --systems 2 --rules huayno --num-factors 2 "
        "--model plummer --fastest 0 --no-time --quiet --out",
        tmp_path / "evaluation",
    )
    assert done.code == 0, done.err
    assert "learned:plummer:all" in done.out


@pytest.mark.parametrize(("name", "inputs"), [("kepler", "eccentric"), ("plummer", "encounters")])
def test_the_torch_simulator_is_not_handed_what_it_cannot_run(name, inputs, tmp_path):
    outcome = call("export", STEPPERS / name, "--out", tmp_path)
    assert_refused(outcome, "cannot be exported", f"{inputs} inputs", "tolerance", "basic or rich")
    assert not list(tmp_path.iterdir())


def test_what_keeps_to_the_torch_contract_is_exported(tmp_path):
    outcome = call("export", STEPPERS / "kepler_torch", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.glob("model_epoch_*.pt"))


@pytest.mark.parametrize("name", NAMES)
def test_its_steps_are_those_it_had_when_it_was_shipped(name):
    """At 100 states each: pairs of any eccentricity, mass and size, and spheres of 8 bodies."""
    gravity = Gravity(0.01 if name == "plummer" else 0.0)
    rule = stepper(name, gravity.softening)
    tables, dt = (SHIPPED_DT[f"{name}_{part}"] for part in ("tables", "dt"))

    def step_size(table):
        particles = from_table(table, gravity.acceleration, table.dtype)
        return rule.step_size(rule.init(particles), particles)[0]

    # To rounding, which differs from one processor to the next.
    np.testing.assert_allclose(jax.jit(jax.vmap(step_size))(tables), dt, rtol=1e-12)
