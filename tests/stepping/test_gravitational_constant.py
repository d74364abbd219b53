"""G other than 1: the same motion as with G = 1, in another unit of time."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.units import read_units
from jaxstepper.stepping.individual import longest_step
from jaxstepper.stepping.literature import by_name
from jaxstepper.stepping.rollout import reverse
from jaxstepper.stepping.rule import memoryless

G = 39.476926
PAIR = js.kepler_pair(0.6, total_mass=1.0, phase=np.pi)
ONE, OTHER = js.Gravity(), js.Gravity(G=G)


def faster(table, dim):
    """The bodies with the velocities that they have under G."""
    table = np.array(table)
    table[:, 1 + dim :] *= np.sqrt(G)
    return table


def both(make):
    """30 steps from the apocentre with G = 1, and with G."""
    for gravity, table in ((ONE, PAIR), (OTHER, faster(PAIR, 2))):
        start = js.from_table(table, gravity.acceleration)
        yield js.record(make(gravity), gravity, start, js.Limits(steps=30))[1]


def kepler(gravity):
    return js.symmetrized(js.load_rule("kepler", gravity))


@pytest.mark.parametrize(
    "make",
    [
        kepler,
        lambda gravity: js.symmetrized(js.free_fall(0.02)),
        lambda gravity: js.Huayno(0.02),
        lambda gravity: js.HairerSoderlind(0.02),
        lambda gravity: js.DistanceOverAcceleration(0.02),
        lambda gravity: by_name("logarithmic-hamiltonian", gravity),
        lambda gravity: js.free_fall(0.02).on(js.Hermite()),
        lambda gravity: memoryless(lambda p: 0.01 * jnp.min(1 / jnp.abs(p.velocity[:, 1]))),
    ],
    ids=["kepler", "free-fall", "huayno", "hairer", "distance", "logarithmic", "hermite", "own"],
)
def test_steps_are_the_same_share_of_the_period(make):
    one, other = both(make)
    np.testing.assert_allclose(other.dt * np.sqrt(G), one.dt, rtol=1e-12)
    np.testing.assert_allclose(other.position, one.position, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(other.energy / G, one.energy, rtol=1e-12)


def test_the_earth_takes_a_year():
    units = read_units("au yr Msun")
    gravity = js.Gravity(G=units.G)
    year = 2 * np.pi / np.sqrt(units.G * (1 + 3e-6))
    assert year * 365.25 == pytest.approx(365.2568983, abs=1e-3)  # Gauss's year, but for the mass
    table = js.from_elements([1, 3e-6], 1.0, 0.0167, G=units.G)
    start = js.from_table(table, gravity.acceleration)
    rule = js.fixed(year / 4000)
    end = js.run_until(rule, gravity, start, js.Limits(time=year)).particles
    np.testing.assert_allclose(end.position, start.position, atol=1e-5)


def test_a_rollout_turned_round_comes_back():
    rule, start = js.HairerSoderlind(0.05), js.from_table(faster(PAIR, 2), OTHER.acceleration)
    there = js.run_until(rule, OTHER, start, js.Limits(steps=40))
    turned = reverse(rule, there, OTHER)
    step, _ = rule.step_size(turned.memory, turned.particles.replace(mass=G * start.mass))
    assert float(step) == pytest.approx(float(there.particles.dt), rel=1e-9)


def test_individual_steps_are_those_of_G_1():
    table = js.plummer(np.random.default_rng(1), 8)
    ends, longest = [], []
    for gravity, bodies, unit in ((ONE, table, 1.0), (OTHER, faster(table, 3), np.sqrt(G))):
        start = js.from_table(bodies, gravity.acceleration)
        longest.append(longest_step(gravity, start, 100.0) * unit)
        ends.append(js.run_individual(js.Aarseth(0.02), gravity, start, 0.25 / unit, 0.125 / unit))
    assert longest[0] == pytest.approx(longest[1])
    assert int(ends[0].steps) == int(ends[1].steps)
    np.testing.assert_allclose(ends[1].motion[0], ends[0].motion[0], rtol=1e-9, atol=1e-12)


def test_the_energy_is_that_of_a_kepler_pair():
    start = js.from_table(faster(PAIR, 2), OTHER.acceleration)
    # -G m1 m2 / (2 a), of masses 1/2 and a = 1.
    assert float(total_energy(start, OTHER)) == pytest.approx(-G / 8)


@pytest.mark.parametrize("G", [0.0, -1.0, np.inf, np.nan])
def test_a_G_that_is_none_is_refused(G):
    with pytest.raises(UserError, match="must be a number > 0"):
        js.Gravity(G=G)
