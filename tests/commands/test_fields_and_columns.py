"""`simulate` with files of named columns, one body, massless bodies, and an external field."""

import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.runs.folders import SHIPPED

STEPPERS = SHIPPED

FIELD = "--external-field-mass 1000 --external-field-position 10 0"
ONE = "1e-6 .1 0 0 0\n"
TWO = ONE + "1e-6 -.1 .2 0 0\n"
# A leapfrog of 40,000 equal steps ends at 0.89144.
END = 0.89144


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def simulate(tmp_path, text, *flags, name="bodies.txt"):
    (tmp_path / name).write_text(text)
    return call("simulate --no-compilation-cache --dtype float64 --ic-path", name, *flags)


@pytest.mark.parametrize("text", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("rule", ["free-fall", "huayno", "hairer-soderlind", "learned"])
def test_light_bodies_in_a_tide(tmp_path, text, rule):
    # Steps of a tolerance of 1e-3 are too long for a system whose energy grows a hundredfold.
    model = "--model-path kepler --eta 0.5" if rule == "learned" else ""
    flags = f"--controller {rule} --duration 2 --output path.npz {model}"
    outcome = simulate(tmp_path, text, FIELD, flags)
    assert outcome.code == 0, outcome.err
    assert np.load("path.npz")["position"][-1, 0, 0] == pytest.approx(END, abs=1e-3)


def test_a_rule_that_does_not_see_a_field_is_refused(tmp_path):
    outcome = simulate(tmp_path, TWO, FIELD, "--controller logarithmic-hamiltonian")
    assert_refused(outcome, "logarithmic-hamiltonian does not see an external field", "free-fall")


def test_one_body_needs_a_field(tmp_path):
    assert_refused(simulate(tmp_path, ONE), "only one body", "--external-field-mass")


def test_named_columns_are_obeyed(tmp_path):
    text = "x,y,vx,vy,mass\n1,0,0,.5,1e-3\n-1,0,0,-.5,1e-3\n"
    flags = "--controller free-fall --steps 3 --Nperiod 0"
    (report,) = simulate(tmp_path, text, flags, name="a.csv").reports()
    # Two kinetic energies of 1e-3 x .25 / 2, and -1e-6 / 2.
    assert report["energy_initial"] == pytest.approx(2.495e-4)


def test_nine_columns_are_four_dimensions_only_if_asked_for(tmp_path):
    rows = "0,1,0,0,0,0,0,0,.1\n1,1,1,0,0,0,1,0,.1\n"
    flags = "--controller free-fall --steps 3 --Nperiod 0"
    assert_refused(simulate(tmp_path, rows, flags, name="a.csv"), "9 columns", "--dim 4")
    four = simulate(tmp_path, rows.replace("0,1,0", "1,1,0"), flags, "--dim 4", name="a.csv")
    assert four.code == 0
    named = simulate(tmp_path, f"id,m,x,y,z,vx,vy,vz,radius\n{rows}", flags, name="a.csv")
    (report,) = named.reports()
    assert "column radius is not read" in named.warned + named.err
    # v^2 / 2 - 1, of unit masses at a distance of 1, the second with a speed of 1.
    assert report["energy_initial"] == pytest.approx(-0.5)


@pytest.mark.parametrize("rule", ["free-fall", "huayno", "hairer-soderlind"])
def test_massless_planets(tmp_path, rule):
    text = "1 0 0 0 0\n0 1 0 0 1\n0 -1 0 0 -1.2247448713915890\n"
    flags = f"--controller {rule} --duration 6.283185307179586 --output path.npz"
    outcome = simulate(tmp_path, text, flags)
    assert outcome.code == 0, outcome.err
    np.testing.assert_allclose(np.load("path.npz")["position"][-1, 1], [1, 0], atol=1e-3)


LEARNED = f"--integrator-mode ml --model-path {STEPPERS / 'kepler'}"


@pytest.mark.parametrize("output", ["", "--output path.npz"], ids=["report", "output"])
def test_an_energy_that_is_small_by_chance_in_a_field_is_no_failure(tmp_path, output):
    # E0 is -6e-10; the kinetic energy at the end, 1e-6.
    outcome = simulate(tmp_path, TWO, FIELD, LEARNED, "--duration 2", output)
    assert outcome.code == 0, outcome.err
    (report,) = outcome.reports()
    assert report["max_energy_error"] > 1
    assert "warning: the largest energy error" in outcome.err
    assert "a smaller --tolerance" in outcome.err


@pytest.mark.parametrize("output", ["", "--output path.npz"], ids=["report", "output"])
def test_a_blow_up_in_a_field_is_one(tmp_path, output):
    close = "1 .1 0 0 0\n1 .100001 0 0 0\n"
    outcome = simulate(tmp_path, close, FIELD, "--dt 1e-3", output)
    assert outcome.code == 1
    assert "energy error is above 1" in outcome.err
