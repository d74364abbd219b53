"""The dt of two-phase training is the same in every inertial frame and in all units."""

import jax
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError

# Total mass 1, a = 1, e = 0.5, from apocentre.
PAIR = np.array([[0.5, -0.75, 0, 0, -0.28867513], [0.5, 0.75, 0, 0, 0.28867513]])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def trained_dt(table):
    """The steps accepted in training, and that of the rule it leads to, at the start."""
    options = {"epochs": 1, "hidden_dims": (4,), "dropout": 0.0, "max_retrain_steps": 100}
    trained = js.train(table, objective="gate", progress=False, **options)
    gravity = js.Gravity()
    start, rule = js.from_table(table, gravity.acceleration), trained.rule()
    assert trained.history["max_energy_error"][0] < 2e-4
    return trained.history["mean_dt"][0], float(rule.step_size(rule.init(start), start)[0])


def in_units(length, mass):
    speed = np.sqrt(mass / length)
    return PAIR * [mass, length, length, speed, speed], length / speed


@pytest.fixture(scope="module")
def at_rest():
    with jax.enable_x64(True):
        return trained_dt(PAIR)


def test_a_drift_changes_no_trained_step(at_rest):
    assert 0.01 < at_rest[0] < 0.1
    drifting = PAIR + np.array([0, 0, 0, 1000, 0])
    assert trained_dt(drifting) == pytest.approx(at_rest, rel=1e-4)


@pytest.mark.parametrize(("length", "mass"), [(1.0, 1e-8), (1e12, 1.0)])
def test_units_change_trained_steps_by_their_factor(length, mass, at_rest):
    table, time = in_units(length, mass)
    assert np.array(trained_dt(table)) / time == pytest.approx(at_rest, rel=1e-3)


def test_units_in_which_steps_are_lost_beside_the_least_dt_are_refused():
    with pytest.raises(UserError, match="first step.*smaller unit of time") as refused:
        trained_dt(in_units(1e-12, 1.0)[0])
    assert "\n" not in str(refused.value)
    with pytest.warns(UserWarning, match="that simulate adds to every learned dt"):
        trained_dt(in_units(1e-3, 1.0)[0])
