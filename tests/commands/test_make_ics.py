"""`make-ics`: files that `load_table` and `simulate --ic-path` take."""

import numpy as np
import pytest
from commandline import assert_refused, call

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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
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
        ("pythagorean --out /proc/none/a.txt", ("cannot be written",)),
    ],
)
def test_what_cannot_be_made_is_refused(flags, words):
    assert_refused(call(f"make-ics {flags}"), *words)
