"""`simulate --individual`: each body with steps of its own, from the command line."""

import numpy as np
import pytest
from commandline import REPORT, assert_refused, call

from jaxstepper.physics.initial_conditions import plummer_batch
from jaxstepper.physics.tables import save_table

INDIVIDUAL = "--individual --scheme hermite --controller aarseth"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def simulate(*argv):
    return call("simulate --no-compilation-cache", INDIVIDUAL, *argv)


def test_it_reports_evaluations_with_a_fraction_and_records_common_times():
    save_table("eight.txt", plummer_batch(3, 1, 8)[0])
    outcome = simulate("--ic-path eight.txt --softening 0.05 --duration 1 --output run.npz")
    assert outcome.code == 0, outcome.err
    (report,) = outcome.reports()
    assert report.keys() == REPORT and report["end_time"] == 1
    assert report["force_evaluations"] < report["steps"]
    assert report["force_evaluations"] * 8 == pytest.approx(
        round(report["force_evaluations"] * 8), abs=1e-9
    )
    with np.load("run.npz") as path:
        named = {name for name in path if "/" not in name}
        assert named == {"time", "dt", "position", "velocity", "energy", "mass", "about"}
        np.testing.assert_allclose(path["time"], np.linspace(0, 1, len(path["dt"]) + 1))
        assert path["position"].shape == (len(path["time"]), 8, 3)
        errors = np.abs(path["energy"] / path["energy"][0] - 1)
    assert report["max_energy_error"] == pytest.approx(errors.max(), rel=1e-6)
    assert 0 < report["max_energy_error"] < 1e-4


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("--individual", "needs --scheme hermite"),
        ("--individual --scheme hermite", "--controller aarseth"),
        ("--individual --scheme hermite --controller free-fall", "--controller aarseth"),
        (f"{INDIVIDUAL} --symmetrize", "cannot be reversed"),
        (f"{INDIVIDUAL} --steps 7 --num-particles 3 --seed 1", "needs --duration"),
        ("--controller aarseth", "add --individual"),
    ],
)
def test_what_does_not_go_together_is_refused(argv, why):
    assert_refused(call("simulate", argv), why)


def test_a_collision_ends_with_its_reason():
    save_table("pair.txt", np.array([[1.0, -1, 0, 0, 0], [1, 1, 0, 0, 0]]))
    outcome = simulate("--ic-path pair.txt --duration 10")
    assert outcome.code == 1
    assert "the rollout st" in outcome.err and "bodies 0 and 1" in outcome.err


def test_derivatives_that_single_precision_has_no_numbers_for_are_refused(tmp_path):
    table = plummer_batch(1, 1, 3)[0] * ([1] + [1e11] * 3 + [1e-11**0.5] * 3)
    save_table(tmp_path / "wide.csv", table)
    run = f"simulate --no-compilation-cache --ic-path {tmp_path / 'wide.csv'} --duration 1e15"
    for rule in (INDIVIDUAL, "--model-path few_bodies", "--controller distance-over-acceleration"):
        refused = call(run, rule, "--dtype float32 --quiet")
        assert refused.code == 2 and "too small or large for this rule in float32" in refused.err
    assert call(run, INDIVIDUAL).code == 0
