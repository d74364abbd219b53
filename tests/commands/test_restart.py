"""`simulate` in units, at given times, backwards, and going on with what a file holds."""

from pathlib import Path

import numpy as np
import pytest
from commandline import assert_refused, call

import jaxstepper as js
from jaxstepper.reporting.bars import Bars
from jaxstepper.runs.recordings import read_recording

PLANETS = """name,m (Msun),x (au),y (au),vx (km/s),vy (km/s)
Sun,1,0,0,0,0
Jupiter,9.546e-4,5.203,0,0,13.06
Dust,0,2.5,0,0,18.8
"""
SIMULATE = "simulate --no-compilation-cache"
SOLAR = f"{SIMULATE} --ic-path planets.csv --units au yr msun --controller free-fall --eta 0.1"
# Of Jupiter about a Sun at rest.
PERIOD = 11.862


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planets.csv").write_text(PLANETS)


def report(*argv):
    outcome = call(*argv)
    assert outcome.code == 0, outcome.err
    (told,) = outcome.reports()
    return told


def test_planets_in_their_units_restarted_and_drawn(tmp_path):
    flags = "--symmetrize --output-every 1 --output"
    whole = report(SOLAR, f"--duration {PERIOD} {flags} whole.npz")
    assert whole["units"]["time"] == "yr" and whole["units"]["length"] == "AU"
    assert whole["G"] == pytest.approx(4 * np.pi**2, rel=1e-4)
    assert whole["end_time"] == PERIOD and whole["max_energy_error"] < 1e-6
    # -G M m / (2 a) of Jupiter, about the barycentre; dust has no mass.
    assert whole["energy_initial"] == pytest.approx(-39.4769 * 9.546e-4 / 2 / 5.203, rel=4e-3)
    first = report(SOLAR, f"--duration 4.6 {flags} first.npz")
    assert first["end_time"] == 4.6
    rest = report(f"{SIMULATE} --restart first.npz --duration {PERIOD} {flags[13:]} rest.h5")
    assert rest == whole
    found, expected = read_recording("rest.h5"), read_recording("whole.npz")
    np.testing.assert_array_equal(found.arrays["time"], np.arange(5, 12))
    np.testing.assert_array_equal(found.arrays["position"], expected.arrays["position"][5:])
    assert found.names == expected.names == ("Sun", "Jupiter", "Dust")
    about = expected.about
    assert (about["rule"], about["scheme"], about["symmetrized"]) == ("free-fall", "leapfrog", True)
    assert about["units"] == whole["units"] and isinstance(about["seed"], int)
    np.testing.assert_array_equal(expected.mass, [1, 9.546e-4, 0])
    # Kepler's third law: half a revolution in half a period.
    angle = np.unwrap(np.arctan2(*expected.arrays["position"][:, 1].T[::-1]))
    assert angle[-1] == pytest.approx(2 * np.pi * 11 / PERIOD, abs=0.02)
    assert call("plot rest.h5").out == "rest.png\n"
    # Starting anew from the end of a file.
    again = report(
        f"{SIMULATE} --ic-path rest.h5 --units au yr msun --controller free-fall --duration 0.1"
    )
    assert again["energy_initial"] == pytest.approx(whole["energy_final"], rel=1e-6)


def test_what_a_restart_refuses():
    assert call(SOLAR, "--steps 3 --output first.npz").code == 0
    go_on = f"{SIMULATE} --restart first.npz"
    assert_refused(call(go_on), "say how far from its start: --duration T or --steps N")
    assert_refused(call(go_on, "--steps 5 --eta 0.2"), "--eta 0.2: first.npz was recorded with 0.1")
    assert_refused(
        call(go_on, "--steps 5 --softening 0.2"), "was recorded without it; leave it out"
    )
    assert_refused(call(f"{SIMULATE} --restart none.npz --steps 5"), "none.npz: cannot be read")
    assert report(go_on, "--steps 5 --eta 0.1") == report(SOLAR, "--steps 5 --output whole.npz")


@pytest.mark.parametrize("way", ["", "--backwards"])
def test_a_restart_neither_turns_round_nor_replaces_its_file(way):
    assert call(SOLAR, f"{way} --duration 1.1 --dtype float32 --output first.npz").code == 0
    go_on, before = f"{SIMULATE} --restart first.npz", Path("first.npz").read_bytes()
    outcome = call(go_on, "--duration 0.7 --output more.npz")
    words = "reached time -1.1 already, and cannot go on to -0.7; the end counts from"
    assert_refused(outcome, words if way else words.replace("-", ""))
    assert not Path("more.npz").exists()
    assert_refused(call(go_on, "--steps 1"), "took more than 1 steps already")
    assert_refused(call(go_on, "--duration 1.2 --output ./first.npz"), "would replace the rollout")
    assert Path("first.npz").read_bytes() == before
    assert abs(report(go_on, "--duration 1.1")["end_time"]) == pytest.approx(1.1)


def test_a_recording_keeps_its_units():
    assert call(SOLAR, "--steps 3 --output first.npz").code == 0
    on = f"{SIMULATE} --ic-path first.npz --controller free-fall --duration"
    assert_refused(
        call(on, "1"), "first.npz: was recorded in AU, yr, Msun; say the units of the run"
    )
    years, seconds = report(on, "1 --units au yr msun"), report(on, "31557600 --units si")
    joule = 1.98841e30 * (1.495978707e11 / 31557600) ** 2
    assert seconds["energy_final"] == pytest.approx(years["energy_final"] * joule, rel=1e-4)
    assert seconds["steps"] == years["steps"]
    plain = f"{SIMULATE} -e 0.5 --G 4 --steps 3 --Nperiod 0 --output plain.npz"
    assert call(plain).code == 0
    on = f"{SIMULATE} --ic-path plain.npz --steps 2"
    assert_refused(call(on), "plain.npz: was recorded with G = 4", "not G = 1; say so: --G 4.0")
    # Numbers of other units would be taken for au and solar masses.
    assert_refused(call(on, "--units au yr Msun"), "was recorded with G = 4", "not G = 39.4769")
    assert_refused(call(on, "--G 5"), "not G = 5; say so: --G 4.0")
    assert call(on, "--G 4").code == 0


def test_a_recording_of_a_program_is_gone_on_with_there():
    gravity = js.Gravity()
    pair = js.from_table(js.kepler_pair(0.5), gravity.acceleration)
    js.record_to("mine.npz", js.fixed(0.1), gravity, pair, js.Limits(steps=3))
    refused = call(f"{SIMULATE} --restart mine.npz --steps 5")
    assert_refused(refused, "was recorded by a program, which can go on with it (go_on)")


def test_columns_with_units_need_those_of_the_run():
    outcome = call(f"{SIMULATE} --ic-path planets.csv --steps 1")
    assert_refused(outcome, "the columns have units (m in Msun, x in au, ...)", "--units au yr")
    assert_refused(call(SOLAR, "--G 2 --steps 1"), "--G 2.0: and units both say what G is")
    assert_refused(call(f"{SIMULATE} --units au yr stone --steps 1"), "'stone' is not understood")


def test_a_unit_of_time_that_a_speed_makes_is_told(tmp_path):
    outcome = call(f"{SIMULATE} --units pc km/s Msun -e 0.5 --duration 0")
    assert "time is in pc s / km = 0.977792 Myr" in outcome.err
    # A pair that is drawn moves as fast as G asks: E = -G m1 m2 / (2 a).
    (told,) = outcome.reports()
    assert told["energy_initial"] == pytest.approx(-0.00430091 / 2, rel=3e-6)


UNBOUND = "1 0 0 0 0\n3e-6 1 0 0 6.28\n1e-3 5.2 0 0 2.76\n"


@pytest.mark.parametrize(
    ("flags", "warned"), [("", True), ("--G 39.5", False), ("--units au yr msun", False)]
)
def test_bodies_that_all_fly_apart_are_noted(tmp_path, flags, warned):
    (tmp_path / "solar.txt").write_text(UNBOUND)
    outcome = call(f"{SIMULATE} --ic-path solar.txt --duration 0 {flags}")
    assert outcome.code == 0
    said = [line for line in outcome.err.splitlines() if "fly apart" in line]
    assert len(said) == warned
    assert not warned or ("--units au yr Msun" in said[0] and "G = 1" in said[0])


def test_output_at_times_backwards_from_a_start_time():
    told = report(
        f"{SIMULATE} -e 0.5 --dt 0.01 --start-time 10 --duration 3 --backwards "
        "--output a.npz --output-times 8 9.5"
    )
    assert told["end_time"] == 7
    np.testing.assert_array_equal(read_recording("a.npz").arrays["time"], [9.5, 8])
    steps = report(f"{SIMULATE} -e 0.5 --dt 0.01 --backwards --Nperiod 0 --steps 100")
    assert steps["end_time"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--duration -10", "must be a number >= 0; with --backwards, time runs backwards"),
        ("--output-every 1", "needs --output FILE"),
        ("--output a.npz --output-every 1 --output-times 1", "both say when"),
        ("--output a.npz --output-times 2 1", "each larger than the one before"),
        ("--output a.npz --output-times -1 --duration 1", "the rollout begins at 0"),
    ],
)
def test_what_is_refused(flags, said):
    assert_refused(call(f"{SIMULATE} -e 0.5 {flags}"), said)


INDIVIDUAL = "--scheme hermite --individual --controller aarseth --softening 0.01 --start-time 2"


def test_individual_steps_are_kept_at_given_times_and_gone_on_with():
    planets = f"{SIMULATE} --ic-path planets.csv --units au yr msun {INDIVIDUAL} --dt 0.3"
    whole = report(planets, "--duration 2 --output-every 0.25 --output whole.h5")
    report(planets, "--duration 1.1 --output-every 0.25 --output first.npz")
    rest = report(f"{SIMULATE} --restart first.npz --duration 2 --output-every 0.25 --output b.h5")
    assert rest == whole and whole["end_time"] == 4
    found, expected = read_recording("b.h5"), read_recording("whole.h5")
    np.testing.assert_array_equal(found.arrays["time"], [3.25, 3.5, 3.75, 4])
    for name in ("position", "velocity", "energy"):
        np.testing.assert_array_equal(found.arrays[name], expected.arrays[name][5:])
    assert found.names == expected.names == ("Sun", "Jupiter", "Dust")
    assert found.about["scheme"] == "hermite"
    go_on = f"{SIMULATE} --restart first.npz"
    assert_refused(call(go_on, "--duration 1"), "reached time 3.05 already")
    assert_refused(call(go_on, "--steps 9999"), "needs --duration")
    assert_refused(call(go_on, "--duration 2 --output first.npz"), "would replace")


def test_without_dt_a_restart_says_where_the_whole_rollout_would_differ():
    planets = f"{SIMULATE} --ic-path planets.csv --units au yr msun {INDIVIDUAL}"
    report(planets, "--duration 1 --output first.npz")
    outcome = call(f"{SIMULATE} --restart first.npz --duration 2")
    assert "no step is longer than 0.0625, as in first.npz" in outcome.err
    assert "a run to 4 in one has 0.125, unless --dt 0.0625" in outcome.err
    assert outcome.reports() == call(planets, "--duration 2 --dt 0.0625").reports()


def test_several_systems_with_individual_steps_are_gone_on_with():
    flags = "--draw plummer --num-particles 5 --multi-orbit-sim --num-orbits 2 --seed 1 --dt 0.2"
    several = f"{SIMULATE} {INDIVIDUAL} {flags}"
    whole = call(several, "--duration 1 --output whole.npz")
    assert call(several, "--duration 0.7 --output first.npz").code == 0
    rest = call(f"{SIMULATE} --restart first.npz --duration 1 --output rest.npz")
    assert len(rest.reports()) == 2 and rest.reports() == whole.reports()
    found, expected = read_recording("rest.npz").arrays, read_recording("whole.npz").arrays
    np.testing.assert_allclose(expected["time"], [2 + 0.2 * np.arange(6)] * 2)
    np.testing.assert_array_equal(found["position"], expected["position"][:, -2:])


def test_several_systems_can_be_gone_on_with_before_the_last_has_begun(monkeypatch):
    several = f"{SIMULATE} --controller free-fall --eta 0.1 --multi-orbit-sim --num-orbits 2"
    flags = f"{several} --seed 1 --Nperiod 0 --steps 20 --output-times 0 1"
    whole = call(flags, "--output whole.npz")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert call(flags, "--output first.npz").code == 130
    rest = call(f"{SIMULATE} --restart first.npz --steps 20 --output-times 0 1 --output rest.npz")
    assert rest.reports() == whole.reports()
    found, expected = read_recording("rest.npz").arrays, read_recording("whole.npz").arrays
    np.testing.assert_array_equal(found["position"][1], expected["position"][1])


def interrupt_at(monkeypatch, call):
    """Ctrl-C at the end of a device call, of which the first is 1."""
    shares = []

    def interrupted(self, name, share, figures=""):
        shares.append(share)
        if len(shares) == call + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bars, "show_share", interrupted)


def test_ctrl_c_leaves_a_file_and_says_so(monkeypatch):
    interrupt_at(monkeypatch, 3)
    outcome = call(SOLAR, "--duration 200 --output a.npz")
    assert outcome.code == 130
    assert "a.npz holds the states so far; --restart a.npz goes on with them" in outcome.err
    assert len(read_recording("a.npz").arrays["time"]) > 2
