"""Where bodies should be, and how far they are from there."""

import math

import numpy as np
import pytest
import rebound

from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.positions import _positions, kepler_positions, position_error
from jaxstepper.evaluation.problems import problem
from jaxstepper.physics.initial_conditions import kepler_pair
from jaxstepper.stepping import literature as rules


@pytest.mark.parametrize("eccentricity", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("phase", [0.0, 2.0, math.pi])
def test_a_pair_is_where_its_anomalies_say(eccentricity, phase):
    begin = kepler_pair(eccentricity, 2.0, 0.25, 3.0, phase)
    # Kepler's equation is explicit in the time: choose the true anomaly, and compute the time.
    for end in (phase + 1.0, phase + 5.0, phase + 2 * math.pi):
        mean = mean_anomaly(eccentricity, end) - mean_anomaly(eccentricity, phase)
        time = mean / math.sqrt(3.0 / 2.0**3)
        expected = kepler_pair(eccentricity, 2.0, 0.25, 3.0, end)
        np.testing.assert_allclose(kepler_positions(begin, time), expected[:, 1:3], atol=1e-12)


def mean_anomaly(e, true):
    turns = math.floor((true + math.pi) / (2 * math.pi))
    rest = true - 2 * math.pi * turns
    half = math.atan2(math.sqrt(1 - e) * math.sin(rest / 2), math.sqrt(1 + e) * math.cos(rest / 2))
    return 2 * half - e * math.sin(2 * half) + 2 * math.pi * turns


def test_a_moving_pair_takes_its_barycentre_along():
    still, moving = kepler_pair(0.5), kepler_pair(0.5)
    moving[:, 3:] += [3.0, -1.0]
    gone = kepler_positions(moving, 7.0) - kepler_positions(still, 7.0)
    np.testing.assert_allclose(gone, [[21, -7], [21, -7]], rtol=1e-12)


@pytest.mark.parametrize("name", ["figure-eight", "planet-in-binary"])
def test_the_reference_is_that_of_ias15(name):
    mine = problem(name, orbits=2, end_time=12.0)
    simulation = rebound.Simulation()
    for mass, x, y, vx, vy in mine.tables[0]:
        simulation.add(m=mass, x=x, y=y, vx=vx, vy=vy)
    simulation.integrate(12.5)
    expected = [[body.x, body.y] for body in simulation.particles]
    np.testing.assert_allclose(_positions(mine, 0, 12.5), expected, atol=1e-9)


def test_an_error_is_the_largest_of_any_body_in_closest_distances():
    mine = problem("kepler-0.5", orbits=1)
    exact = kepler_positions(mine.tables[0], mine.end_time)
    assert position_error(mine, 0, mine.end_time, exact) == 0
    # The bodies begin 1.5 apart.
    off = exact + np.array([[0.0, 0.0], [0.03, 0.04]])
    assert position_error(mine, 0, mine.end_time, off) == pytest.approx(0.05 / 1.5)


def test_where_orbits_are_chaotic_or_lost_there_is_no_position_error():
    chaotic = problem("pythagorean")
    assert math.isnan(position_error(chaotic, 0, 70.0, chaotic.tables[0][:, 1:3]))
    pair = problem("kepler-0.5")
    assert math.isnan(position_error(pair, 0, 70.0, np.full((2, 2), math.nan)))


def test_a_planet_whose_energy_nobody_sees_is_missed_by_its_position():
    planet = problem("planet-in-binary", orbits=5)
    rough, fine = evaluate(rules.free_fall(0.05), "", False, [planet], [4.0, 0.2], 100_000)
    # By its energy the rough run is fine; its planet is somewhere else.
    assert rough.max_error < 1e-6
    assert rough.error == rough.position_error > 0.1
    # The leapfrog is of second order.
    assert fine.error == pytest.approx(rough.error / 400, rel=0.3)
