"""The steppers that come with the repository: they load, and do what they are there for."""

from pathlib import Path

import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.arguments import parse
from jaxstepper.checkpoints import load
from jaxstepper.config import from_dict
from jaxstepper.controllers import symmetrized
from jaxstepper.dynamics import Gravity
from jaxstepper.evaluate import evaluate
from jaxstepper.models import learned_controller, load_model
from jaxstepper.problems import problem
from jaxstepper.rules import free_fall

ROOT = Path(__file__).parent.parent
STEPPERS = ROOT / "checkpoints"
NAMES = ["kepler", "kepler_torch"]
PROBLEMS = [problem(f"kepler-{e}", orbits=5) for e in (0.5, 0.9)]


def work_at_equal_error(rule, factor):
    """Steps times the root of the largest error, for each problem; small steps do not change it."""
    runs = evaluate(symmetrized(rule), "", True, PROBLEMS, [factor], 20_000)
    return np.array([run.steps * np.sqrt(run.max_error) for run in runs])


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_less_work_than_free_fall(name):
    model = load_model(str(STEPPERS / name), "")
    rule = learned_controller(from_dict(model.config)[0], model, Gravity())
    assert np.all(work_at_equal_error(rule, 1.0) < 0.9 * work_at_equal_error(free_fall(0.02), 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_it_was_trained_by_its_file(name):
    config, given = parse("train", ["--config", str(ROOT / f"scripts/configs/{name}.toml")])
    trained, _ = from_dict(load(STEPPERS / name).config)
    for field in given:
        assert getattr(trained, field) == getattr(config, field), field
    assert load(STEPPERS / name).epoch == config.epochs - 1


@pytest.mark.parametrize("name", NAMES)
def test_simulate_follows_it(name):
    flags = f"--integrator-mode ml --symmetrize --model-path {STEPPERS / name} -e 0.7 --Nperiod 2"
    outcome = call("simulate", flags, "--no-compilation-cache")
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


def test_the_torch_simulator_is_not_handed_what_it_cannot_run(tmp_path):
    outcome = call("export", STEPPERS / "kepler", "--out", tmp_path)
    assert_refused(outcome, "cannot be exported", "orbital inputs", "tolerance", "basic or rich")
    assert not list(tmp_path.iterdir())


def test_what_keeps_to_the_torch_contract_is_exported(tmp_path):
    outcome = call("export", STEPPERS / "kepler_torch", "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert list(tmp_path.glob("model_epoch_*.pt"))
