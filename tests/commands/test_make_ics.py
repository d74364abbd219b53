"""`make-ics`: files that `load_table` and `simulate --ic-path` take."""

import numpy as np
import pytest
from commandline import assert_refused, call

import jaxstepper as js
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.tables import load_table


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(flags, path):
    outcome = call(f"make-ics {flags} --out {path}")
    assert (outcome.code, outcome.out) == (0, f"{path}\n"), outcome.err
    return load_table(path)


KINDS = [
    (
        "kepler -e 0.5 -a 2 -q 3 --total-mass 4 --phase 90 --dim 3",
        ics.kepler_pair(0.5, 2.0, 3.0, 4.0, np.radians(90), 3),
    ),
    ("kepler", ics.kepler_pair(0.9)),
    ("pythagorean", ics.pythagorean()),
    ("figure-eight --dim 3", ics.figure_eight(3)),
    ("plummer -n 16 --seed 4", ics.plummer(4, 16)),
    (
        "plummer -n 16 --seed 4 --binaries 2 -a 0.01 0.02 -e 0.1 0.9",
        ics.plummer(4, 16, 2, (0.01, 0.02), (0.1, 0.9)),
    ),
    (
        "triple --inner-semi-major 0.5 --inner-eccentricity 0.2 --outer-semi-major 8 "
        "--outer-eccentricity 0.4 --masses 1 2 3",
        ics.hierarchical_triple(0.5, 0.2, 8.0, 0.4, (1.0, 2.0, 3.0)),
    ),
    ("random -n 4 --dim 1 --mass 2 --seed 7", ics.random_table(7, 4, 1, 2.0, 0.1, 1.0)),
]


@pytest.mark.parametrize(("flags", "expected"), KINDS)
@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt"])
def test_every_kind_is_written_exactly(flags, expected, suffix):
    np.testing.assert_array_equal(made(flags, f"new/bodies{suffix}"), expected)


def test_a_batch_draws_from_ranges():
    flags = "kepler -e 0.6 0.95 -p 0 360 --count 200 --seed 1"
    tables = made(flags, "pairs.npy")
    assert tables.shape == (200, 2, 5)
    np.testing.assert_array_equal(made(flags, "again.npy"), tables)
    assert np.any(made(flags.replace("--seed 1", ""), "fresh.npy") != tables)
    relative = tables[:, 1, 1:] - tables[:, 0, 1:]
    x, v = relative[:, :2], relative[:, 2:]
    distance = np.linalg.norm(x, axis=1)
    spin = x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]
    # mu = 2 and a = 1: the energy of all is -1, and e^2 = 1 - L^2 / (mu a).
    np.testing.assert_allclose(0.5 * np.sum(v * v, axis=1) - 2 / distance, -1, rtol=1e-11)
    eccentricity = np.sqrt(1 - spin**2 / 2)
    assert 0.6 < eccentricity.min() < 0.63
    assert 0.92 < eccentricity.max() < 0.95
    spheres = made("plummer -n 8 --count 3 --seed 0", "spheres.npy")
    assert spheres.shape == (3, 8, 7)
    assert np.any(spheres[0] != spheres[1])


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_simulate_starts_from_what_was_written(suffix):
    made("pythagorean", f"p{suffix}")
    outcome = call(f"simulate --no-compilation-cache --ic-path p{suffix} --steps 2")
    energy = -(3 * 4 / 5 + 3 * 5 / 4 + 4 * 5 / 3)
    assert outcome.reports()[0]["energy_initial"] == pytest.approx(energy)


@pytest.mark.parametrize("units", ["au yr Msun", "si", "pc km/s Msun", "au 1e-3yr Mearth"])
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".npy"])
def test_bodies_in_units_are_read_as_they_were_written(units, suffix):
    path, G = f"pair{suffix}", js.read_units(units).G
    outcome = call(f"make-ics kepler -e 0.5 -a 3 --units {units} --out {path}")
    assert outcome.code == 0, outcome.err
    assert (f"read it with --units {units}" in outcome.err) == (suffix == ".npy")
    expected = ics.kepler_pair(0.5, 3.0)
    expected[:, 3:] *= np.sqrt(G)
    np.testing.assert_array_equal(load_table(path, units=js.read_units(units)), expected)
    if suffix != ".npy":
        assert_refused(
            call(f"simulate --ic-path {path} --steps 1"), "columns have units", "--units"
        )


def test_a_pair_made_in_units_goes_round_in_its_period():
    """Kepler's third law: a = 4 au around one solar mass takes 8 years, of 365.25 days."""
    units = "--units au yr Msun"
    flags = f"make-ics kepler -e 0.3 -a 4 --total-mass 1 -q 1e-3 {units} --out pair.csv"
    assert call(flags).code == 0
    flags = f"--ic-path pair.csv {units} --controller free-fall --eta 0.01 --Nperiod 1 --symmetrize"
    outcome = call(f"simulate --no-compilation-cache {flags} --output orbit.npz")
    (report,) = outcome.reports()
    assert report["end_time"] == pytest.approx(8, rel=1e-4)  # to the GM of the Sun
    m1, m2 = 1 / 1.001, 1e-3 / 1.001
    assert report["energy_initial"] == pytest.approx(-js.read_units("au yr Msun").G * m1 * m2 / 8)
    with np.load("orbit.npz") as orbit:
        np.testing.assert_allclose(orbit["position"][-1], orbit["position"][0], atol=0.01)


def test_speeds_that_are_given_stay_in_units():
    flags = "random -n 4 --seed 7 --vel-scale 3"
    plain = made(flags, "plain.csv")
    assert call(f"make-ics {flags} --units pc km/s Msun --out pc.csv").code == 0
    np.testing.assert_array_equal(load_table("pc.csv", units=js.read_units("pc km/s Msun")), plain)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("kepler --units furlong yr Msun --out a.txt", ("--units", "furlong")),
        ("frog --out a.txt", ("frog", "kepler")),
        ("kepler", ("--out",)),
        ("kepler --out a.xyz", ("a.xyz", "unknown suffix")),
        ("kepler --count 3 --out a.txt", ("a.txt", "--count", ".npy")),
        ("kepler --count 0 --out a.npy", ("--count 0", ">= 1")),
        ("kepler -e 1.2 --out a.txt", ("eccentricity must be in [0, 1)", "1.2")),
        ("kepler -e 0.9 0.1 --out a.txt", ("--eccentricity", "begins above its end")),
        ("kepler -e 0.1 0.2 0.3 --out a.txt", ("--eccentricity", "two ends")),
        ("kepler -a -1 --out a.txt", ("--semi-major", "must be a number > 0")),
        ("kepler -p nan --out a.txt", ("--phase", "must be a finite number")),
        ("plummer -n 1 --out a.txt", ("--num-particles", ">= 2")),
        ("plummer -n 4 --binaries 3 --out a.txt", ("binaries must be 0 to half", "3")),
        ("pythagorean --out /proc/none/a.txt", ("cannot be written",)),
    ],
)
def test_what_cannot_be_made_is_refused(flags, words):
    assert_refused(call(f"make-ics {flags}"), *words)
