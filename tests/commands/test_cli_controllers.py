"""`simulate --controller`: the step-size rules from the command line."""

from pathlib import Path

import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.physics.initial_conditions import kepler_pair
from jaxstepper.physics.tables import save_table
from jaxstepper.settings.config import CONTROLLERS, CRITERIA
from jaxstepper.stepping.literature import BY_NAME

GOLDEN = Path(__file__).parents[1] / "golden"
PERIOD = 2 * np.pi


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_table("pair.txt", kepler_pair(0.9, total_mass=1.0, phase=np.pi))


def report(*argv):
    outcome = call("simulate --no-compilation-cache --ic-path pair.txt --Nperiod 1", *argv)
    # Some of these steps are too long for the energy.
    wrong = outcome.code == 1 and "the rollout went wrong" in outcome.err
    assert outcome.code == 0 or wrong, outcome.err
    return outcome.reports()[0]


@pytest.mark.parametrize("name", ["free-fall", "logarithmic-hamiltonian"])
def test_another_rule_is_not_on_the_scheme_of_a_model(name):
    rule = f"--controller {name} --eta 0.05"
    assert report(rule, "--model-path kepler_chin") == report(rule)


def test_the_flag_knows_every_rule():
    assert {*BY_NAME, *CRITERIA, "power-law", "learned"} == set(CONTROLLERS)


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        # Steps per orbit at e = 0.9; the last one is shortened.
        ("fixed --eta 0.01", 629),
        ("fixed --dt 0.02", 315),
        ("fixed", 629),
        ("free-fall", 837),
        ("free-fall --eta 0.02 --symmetrize", 419),
        ("power-law --eta 0.02 --symmetrize", 419),
        ("distance-over-acceleration --eta 0.02 --symmetrize", 419),
        ("hairer-soderlind --eta 0.03", 280),
        ("huayno --eta 0.03", 395),
    ],
)
def test_a_rule_takes_as_many_steps_as_it_is_known_to(flags, steps):
    result = report("--controller", flags)
    assert abs(result["steps"] - steps) <= 1
    assert result["force_evaluations"] == result["steps"] + 1


def test_the_other_rules_follow_the_orbit():
    assert abs(report("--controller logarithmic-hamiltonian")["energy_residual"]) < 1e-12
    softened = "--softening 0.01 --duration 6.28 --controller acceleration"
    coarse, fine = report(softened), report(softened, "--eta 0.02")
    assert fine["steps"] == pytest.approx(5 * coarse["steps"], rel=0.05)
    steeper = report("--controller power-law --power 1 --eta 0.02")["steps"]
    # dt/dE = r for the eccentric anomaly E, so that steps of 0.02 r are 2 pi / 0.02 in an orbit.
    assert abs(steeper - PERIOD / 0.02) < 4


def test_a_network_is_one_more_rule():
    model = ("--model-path", GOLDEN / "torch_plain.pt", "--num-particles 2")
    plain = report("--controller learned", *model)
    assert plain == report("--integrator-mode ml", *model)
    assert plain["force_evaluations"] == plain["steps"] + 1
    half = report("--controller learned --eta 0.5", *model)
    assert half == report("--integrator-mode ml --eta 0.5", *model)
    assert half["steps"] == pytest.approx(2 * plain["steps"], rel=0.1)
    assert report("--integrator-mode ml --symmetrize", *model) != plain
    past = ("--model-path", GOLDEN / "torch_history.pt")
    history = report("--controller learned --softening 0", *past)
    # Its features soften accelerations that the force does not: one more evaluation a step.
    assert history["force_evaluations"] == 2 * history["steps"] + 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--controller frog", ("must be one of fixed, acceleration",)),
        ("--controller huayno --symmetrize", ("cannot be symmetrised", "HUAYNO predicts")),
        ("--controller hairer-soderlind --symmetrize", ("reversible as it is",)),
        ("--controller acceleration", ("needs a softening > 0",)),
        ("--controller learned", ("--controller learned needs --model-path",)),
        ("--controller fixed --integrator-mode ml", ("give one of them",)),
        ("--controller fixed --eta 0.1 --dt 0.1", ("both the constant dt",)),
        ("--controller free-fall --power 2", ("--power 2", "power-law alone")),
        ("--controller free-fall --eta 0", ("--eta 0", "a number > 0")),
        (
            f"--controller learned --symmetrize --model-path {GOLDEN / 'torch_history.pt'}",
            ("cannot be symmetrised", "states before the current one"),
        ),
    ],
)
def test_what_cannot_be_is_refused(flags, words):
    outcome = call("simulate --no-compilation-cache --ic-path pair.txt", flags)
    assert_refused(outcome, *words)


def test_a_flag_wins_over_the_rule_of_a_file():
    Path("rule.toml").write_text('[simulate]\ncontroller = "free-fall"\neta = 0.05\n')
    assert abs(report("--config rule.toml")["steps"] - 168) <= 1
    assert report("--config rule.toml --integrator-mode analytic")["steps"] == 126
