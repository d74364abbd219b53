"""Orbital elements, beside those of rebound."""

import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.elements import true_anomaly
from jaxstepper.physics.particles import to_table

rebound = pytest.importorskip("rebound")

MASS = [1.0, 1e-3, 3e-4, 0.0]
A, E = [5.2, 9.5, -3.0], [0.05, 0.6, 1.6]
INC, NODE, PERI = [0.02, 0.5, 2.5], [0.3, 2.3, -1.3], [1.0, -1.0, 0.4]
ANOMALY = [0.4, 2.9, -1.4]
NAMES = ("a", "e", "inc", "Omega", "omega", "f", "M")


def simulation(centre, **anomalies):
    sim = rebound.Simulation()
    sim.add(m=MASS[0])
    for i, (name, values) in enumerate([*anomalies.items()] * 3):
        orbit = {
            "a": A[i],
            "e": E[i],
            "inc": INC[i],
            "Omega": NODE[i],
            "omega": PERI[i],
            "m": MASS[i + 1],
        }
        primary = {} if centre == "jacobi" else {"primary": sim.particles[0]}
        sim.add(**orbit, **primary, **{name: values[i]})
    sim.move_to_com()
    return sim


@pytest.mark.parametrize("centre", ["jacobi", "heliocentric"])
@pytest.mark.parametrize("anomaly", ["f", "M"])
def test_bodies_stand_where_rebound_puts_them(centre, anomaly):
    sim = simulation(centre, **{anomaly: ANOMALY})
    table = js.from_elements(MASS, A, E, INC, NODE, PERI, centre=centre, **{anomaly: ANOMALY})
    theirs = np.asarray(to_table(js.from_rebound(sim).particles))
    np.testing.assert_allclose(table, theirs, atol=1e-12)


@pytest.mark.parametrize("centre", ["jacobi", "heliocentric"])
def test_elements_come_back_and_are_those_of_rebound(centre):
    table = js.from_elements(MASS, A, E, INC, NODE, PERI, f=ANOMALY, centre=centre, G=39.5)
    found = js.to_elements(table, centre, G=39.5)
    for name, values in zip(NAMES[:6], (A, E, INC, NODE, PERI, ANOMALY), strict=True):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, err_msg=name)
    if centre == "jacobi":
        orbits = simulation(centre, f=ANOMALY).orbits()
        for name in NAMES:
            theirs = np.array([getattr(orbit, name) for orbit in orbits])
            difference = getattr(found, name) - theirs
            if name in NAMES[3:]:
                difference = np.angle(np.exp(1j * difference))
            if name == "M":  # which rebound wraps, of hyperbolas too
                difference = difference[:2]
            np.testing.assert_allclose(difference, 0, atol=1e-9, err_msg=name)


def test_the_plane_is_enough():
    table = js.from_elements([1, 0.5], 2.0, 0.3, omega=0.7, f=1.1)
    flat = table[:, [0, 1, 2, 4, 5]]
    found = js.to_elements(flat)
    expected = [2.0, 0.3, 0.0, 0.0, 0.7, 1.1]
    np.testing.assert_allclose([x[0] for x in found[:6]], expected, atol=1e-12)


@pytest.mark.parametrize("e", [0.0, 0.3, 0.99, 1.2, 5.0])
@pytest.mark.parametrize("M", [-2.5, -1e-3, 0.1, 3.1])
def test_kepler_equation(M, e):
    f = true_anomaly(M, e)
    if e < 1:
        half = np.sqrt((1 - e) / (1 + e)) * np.tan(f / 2)
        E = 2 * np.arctan(half)
        assert E - e * np.sin(E) == pytest.approx(M, abs=1e-12)
    else:
        H = 2 * np.arctanh(np.sqrt((e - 1) / (e + 1)) * np.tan(f / 2))
        assert e * np.sinh(H) - H == pytest.approx(M, abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"mass": [1], "a": 1}, "two masses or more"),
        ({"mass": [1, 1], "a": 1, "e": 1}, "e = 1; give a > 0 and e < 1"),
        ({"mass": [1, 1], "a": -1, "e": 0.5}, "body 1 has a = -1"),
        ({"mass": [1, 1], "a": 1, "f": 0, "M": 0}, "f and M both"),
        ({"mass": [1, 1, 1], "a": [1, 2], "e": [0, 0, 0]}, "3 masses need 2 of each"),
        ({"mass": [1, 1], "a": 1, "centre": "moon"}, "choose jacobi or heliocentric"),
        ({"mass": [0, 1], "a": 1}, "need a mass > 0"),
        ({"mass": [1, 1], "a": -1, "e": 2, "f": 3}, "never reaches"),
    ],
)
def test_orbits_that_are_none_are_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        js.from_elements(**arguments)
