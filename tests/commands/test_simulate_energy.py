"""What `simulate` says of rollouts that stall, go wrong, or miss a tolerance."""

from pathlib import Path

import numpy as np
import pytest
from commandline import REPORT, assert_refused, call

from jaxstepper.commands.rollout_words import warn_of_errors
from jaxstepper.runs.folders import SHIPPED
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request

STEPPERS = SHIPPED
RECORDED = pytest.mark.parametrize("output", ["", "--output run.npz"], ids=["report", "output"])


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fall.txt").write_text("1 -.5 0 0 0\n1 .5 0 0 0\n")


def simulate(*argv):
    outcome = call("simulate --no-compilation-cache", *argv)
    (report,) = outcome.reports()
    assert set(report) == REPORT
    return outcome, report


@RECORDED
@pytest.mark.parametrize("rule", ["free-fall", "huayno", "hairer-soderlind"])
def test_two_bodies_that_fall_onto_each_other_are_told_of(rule, output):
    outcome, report = simulate(f"--ic-path fall.txt --duration 2 --controller {rule}", output)
    assert outcome.code == 1
    assert report["end_time"] == pytest.approx(np.pi / 4, rel=1e-3)
    for words in ("stalled at time 0.78", "bodies 0 and 1", "e-", "--softening", "logarithmic"):
        assert words in outcome.err


@RECORDED
def test_the_rule_that_is_named_gets_it_right(output):
    rule = "--controller logarithmic-hamiltonian"
    outcome, report = simulate("--ic-path fall.txt --duration 2", rule, output)
    assert outcome.code == 0
    assert report["end_time"] == pytest.approx(2, rel=1e-6)
    assert report["max_energy_error"] < 1e-6


def test_the_logarithmic_hamiltonian_refuses_a_single_mass():
    Path("star.txt").write_text("1 0 0 0 0\n0 1 0 0 1\n0 2 0 0 .7\n")
    rule = "--controller logarithmic-hamiltonian"
    refused = call("simulate --no-compilation-cache --ic-path star.txt --duration 2", rule)
    assert_refused(refused, "needs two bodies with a mass", "free-fall")


@RECORDED
def test_an_energy_that_is_not_physics_ends_with_code_1(output):
    outcome, report = simulate("--ic-path fall.txt --duration 2 --dt 1e-3", output)
    assert outcome.code == 1
    assert report["max_energy_error"] > 1
    # The two meet at pi / 4.
    assert "energy error is above 1 since time 0.78" in outcome.err


@pytest.mark.parametrize("bodies", [3, 80])
def test_the_largest_error_is_that_of_the_states_on_the_way(bodies):
    flags = f"--num-particles {bodies} --seed 5 --steps 40 --softening 0.1 --dt 1e-3 --mass 1e-2"
    _, recorded = simulate(flags, "--output run.npz")
    with np.load("run.npz") as file:
        energy = file["energy"]
    error = np.abs(energy / energy[0] - 1)
    # With many bodies only some states are looked at, the last one among them.
    seen = error if bodies == 3 else error[[16, 32, 40]]
    assert recorded["max_energy_error"] == pytest.approx(error.max(), rel=1e-6)
    _, report = simulate(flags)
    assert report["max_energy_error"] == pytest.approx(seen.max(), rel=1e-6)
    assert report["end_time"] == pytest.approx(0.04, rel=1e-13)


def test_a_missed_tolerance_names_a_rule_that_keeps_it():
    # Without --symmetrize the error grows from orbit to orbit.
    flags = "-e 0.7 --Nperiod 100 --integrator-mode ml --tolerance 1e-3 --model-path"
    outcome, report = simulate(flags, STEPPERS / "kepler")
    assert outcome.code == 0
    assert report["max_energy_error"] > 3e-3
    assert (
        "times --tolerance 0.001; --controller logarithmic-hamiltonian keeps to it" in outcome.err
    )
    named = "-e 0.7 --Nperiod 100 --controller logarithmic-hamiltonian"
    assert simulate(named)[1]["max_energy_error"] < 1e-3


def test_a_poor_energy_is_warned_of():
    outcome, report = simulate("-e 0.9 --Nperiod 1 --dt 0.01")
    assert 1e-2 < report["max_energy_error"] < 1
    assert outcome.code == 0
    assert "warning: the largest energy error" in outcome.err
    assert "free-fall --symmetrize" in outcome.err
    assert simulate("-e 0.1 --Nperiod 1 --dt 0.01")[0].err == ""


@pytest.mark.parametrize(
    ("scheme", "said"), [("leapfrog", "10 times --tolerance 0.004"), ("chin", "")]
)
def test_the_tolerance_of_longer_steps_is_that_of_the_order(scheme, said, capsys):
    config = Config(controller="learned", feature_type="orbital", scheme=scheme, eta=2.0)
    # 2^4 times the tolerance of 1e-3 is missed by less than a factor of 3.
    warn_of_errors(Request(config), [0.04])
    shown = capsys.readouterr().err
    assert "0.04" in shown
    assert said in shown if said else "times --tolerance" not in shown
