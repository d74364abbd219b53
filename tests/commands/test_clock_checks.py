"""Rollouts whose times or steps cannot be counted are refused before they start."""

from pathlib import Path

import numpy as np
import pytest
from commandline import assert_refused, call

CIRCLE = ".5 -.5 0 0 -.5\n.5 .5 0 0 .5\n"
INDIVIDUAL = "--scheme hermite --individual --controller aarseth"


@pytest.fixture(autouse=True)
def _with_a_circle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("circle.txt").write_text(CIRCLE)


def simulate(*flags):
    return call("simulate --no-compilation-cache --ic-path circle.txt", *flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--start-time 1e17 --duration 6", "16 apart in float64"),
        ("--start-time -1e9 --duration 6 --dtype float32", "64 apart in float32"),
        (f"--start-time 1e17 --duration 6 {INDIVIDUAL}", "too much for a rollout of 6"),
        ("--duration 1e300 --dtype float32", "overflows in float32"),
        (
            "--start-time 1e6 --duration 100 --dtype float32 --output x.npz --output-every .01",
            "--output-every 0.01",
        ),
    ],
)
def test_times_that_the_clock_cannot_tell_apart(flags, words):
    assert_refused(simulate(flags), words)


@pytest.mark.parametrize(
    "flags",
    ["--dt 1e-20", "--dt 1e-12 --scheme chin", "--controller fixed --eta 1e-12", INDIVIDUAL],
)
def test_more_steps_than_can_be_counted(flags):
    dt = "" if "1e-" in flags else "--dt 1e-12"
    assert_refused(simulate("--duration 1", dt, flags), "more than can be counted")


@pytest.mark.parametrize("rule", ["", INDIVIDUAL])
def test_times_before_the_start_leave_the_file_of_another_rollout(rule):
    before = "a rollout of yesterday"
    Path("x.npz").write_text(before)
    flags = "--duration 1 --output x.npz --output-times -1 .5"
    assert_refused(simulate(flags, rule), "output at time -1:", "begins at 0")
    assert Path("x.npz").read_text() == before


def test_a_fixed_step_that_leads_nowhere_is_no_matter_of_softening():
    Path("far.txt").write_text(".5 -.3 -.4 .4 -.3\n.5 .3 .4 -.4 .3\n")
    flags = "--ic-path far.txt --dtype float32 --dt 1e-30 --Nperiod 0 --steps 200000"
    outcome = call("simulate --no-compilation-cache", flags)
    assert outcome.code == 1
    assert "a larger --dt" in outcome.err
    assert "--softening" not in outcome.err


@pytest.mark.parametrize("rule", ["--controller free-fall", INDIVIDUAL])
def test_a_drift_far_from_the_origin_is_refused_before_it_spoils_the_energy(rule):
    Path("drift.txt").write_text(".5 -.5 0 0 199.5\n.5 .5 0 0 200.5\n")
    run = "simulate --no-compilation-cache --ic-path drift.txt --dtype float32"
    refused = call(run, rule, "--duration 600")
    assert_refused(refused, "drift.txt, moved to their end", "float32 spoils their energy")
    assert call(run, rule, "--duration 0.1").code == 0


def test_the_largest_error_of_individual_steps_counts_where_they_stopped():
    Path("fall.txt").write_text("1 -.5 0 0 0\n1 .5 0 0 0\n")
    outcome = call("simulate --no-compilation-cache --ic-path fall.txt --duration 2", INDIVIDUAL)
    (report,) = outcome.reports()
    assert outcome.code == 1
    assert report["max_energy_error"] >= abs(report["energy_residual"]) > 1
    assert np.isfinite(report["max_energy_error"])
