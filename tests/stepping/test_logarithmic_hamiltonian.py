"""The logarithmic Hamiltonian ends where it is asked to, and heeds its fastest pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.commands.evaluate_arguments import LONGEST
from jaxstepper.physics.diagnostics import internal_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.integrators import logarithmic_leapfrog
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping import literature
from jaxstepper.stepping.literature import LogarithmicHamiltonian
from jaxstepper.stepping.rollout import Limits, advance, run_until, start

GRAVITY = Gravity()


def state_of(table, dtype=jnp.float64):
    return from_table(table, GRAVITY.acceleration, dtype)


def pair(eccentricity, masses=(0.5, 0.5), at=0.0):
    """Total mass M at pericentre distance 1, moving upwards, about the barycentre."""
    m1, m2 = masses
    total = m1 + m2
    speed = np.sqrt(total * (1 + eccentricity))
    one, other = -m2 / total, m1 / total
    return np.array(
        [[m1, one + at, 0, 0, one * speed], [m2, other + at, 0, 0, other * speed]], float
    )


def wide_pair_with_planet(mass, eccentricity=0.0):
    """Stars of 1/2 and 1 at 1000; the planet, at apocentre 1, goes around the star of 1."""
    v = np.sqrt(1.5 / 1000)
    stars = [[0.5, 1000, 0, 0, v * 2 / 3], [1.0, 0, 0, 0, -v / 3]]
    planet = [mass, 1.0, 0, 0, np.sqrt((1 + mass) * (1 - eccentricity)) - v / 3]
    return np.array([*stars, planet])


def end_of(table, time, eta=0.02, dtype=jnp.float64, steps=400_000):
    rule = LogarithmicHamiltonian(eta, GRAVITY)
    return run_until(rule, GRAVITY, state_of(table, dtype), Limits(time, steps))


@pytest.mark.parametrize("eccentricity", [0.3, 0.99, 1.5, 100.0, 1000.0, 6000.0])
@pytest.mark.parametrize("time", [1e-3, 3.7, 6000.0])
def test_it_ends_where_it_is_asked_to(eccentricity, time):
    if eccentricity < 1 and time == 6000.0:
        time = 60.0
    end = end_of(pair(eccentricity), time)
    assert float(end.particles.time) == pytest.approx(time, rel=4e-15)
    # Also the shortened step leaves two bodies on their orbit.
    energy = 0.25 * (eccentricity - 1) / 2
    assert float(internal_energy(end.particles, GRAVITY)) == pytest.approx(energy, rel=1e-10)


@pytest.mark.parametrize("eccentricity", [100.0, 6000.0])
def test_where_it_ends_a_hyperbola_is_where_it_should_be(eccentricity):
    end = end_of(pair(eccentricity), 6000.0).particles
    # Kepler's equation: e sinh F - F = t (e - 1)^(3/2), r = (e cosh F - 1) / (e - 1).
    F = np.arcsinh(6000 * (eccentricity - 1) ** 1.5 / eccentricity)
    for _ in range(50):
        off = eccentricity * np.sinh(F) - F - 6000 * (eccentricity - 1) ** 1.5
        F -= off / (eccentricity * np.cosh(F) - 1)
    r = (eccentricity * np.cosh(F) - 1) / (eccentricity - 1)
    distance = np.linalg.norm(end.position[1] - end.position[0])
    np.testing.assert_allclose(distance, r, rtol=1e-3)


@pytest.mark.parametrize("mass", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("eccentricity", [0.0, 0.6])
def test_a_planet_in_a_wide_pair_stays_with_its_star(mass, eccentricity):
    table = wide_pair_with_planet(mass, eccentricity)
    a = 1 / (1 + eccentricity)
    period = 2 * np.pi * np.sqrt(a**3 / (1 + mass))
    end = end_of(table, 3 * period).particles
    planet = np.asarray(end.position[2] - end.position[1])
    # Three whole orbits end where they began, but for an error in phase.
    assert np.linalg.norm(planet) == pytest.approx(1.0, abs=0.02)
    assert abs(np.arctan2(planet[1], planet[0])) < 0.05


@pytest.mark.parametrize("mass", [0.0, 1e-6, 1e-3])
def test_the_longest_steps_of_an_evaluation_do_not_skip_a_planet(mass):
    # The energy of the stars hides the planet; as a rule ranks by its work, it must not be lost.
    eta = LONGEST * literature.BY_NAME["logarithmic-hamiltonian"].eta
    end = end_of(wide_pair_with_planet(mass), 20 * np.pi, eta)
    assert int(end.steps) > 90
    planet = end.particles.position[2] - end.particles.position[1]
    assert np.linalg.norm(planet) == pytest.approx(1.0, abs=0.1)


def test_it_takes_the_same_steps_of_two_bodies_as_ever():
    # h = eta sqrt(C^3 / (M U)) with C = m1 m2 and U = C / r; a step takes about h / U.
    m1, m2 = 0.3, 1.7
    rule = LogarithmicHamiltonian(0.1, GRAVITY)
    begin = start(rule, GRAVITY, state_of(pair(0.9, (m1, m2))))
    h, (binding, *_) = begin.memory, begin.carried
    np.testing.assert_allclose(h, 0.1 * np.sqrt((m1 * m2) ** 3 / (2.0 * m1 * m2)), rtol=1e-14)
    np.testing.assert_allclose(binding, m1 * m2 * 0.1 / 2, rtol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("mass", [1e-9, 1e-12])
def test_a_small_mass_ratio_does_not_cancel(dtype, mass):
    end = end_of(pair(0.0, (1.0, mass)), 2 * np.pi, dtype=dtype)
    assert 250 < int(end.steps) < 350  # a circle takes 2 pi / eta
    apart = end.particles.position[1] - end.particles.position[0]
    np.testing.assert_allclose(apart, [1.0, 0.0], atol=2e-3)


@pytest.mark.parametrize(("boost", "offset"), [(1000.0, 0.0), (0.0, 1000.0)])
def test_it_does_not_depend_on_the_frame(boost, offset):
    table = pair(0.5)
    moved = table + np.array([0, offset, 0, boost, 0])
    here, there = end_of(table, 20.0), end_of(moved, 20.0)
    assert int(here.steps) == int(there.steps)
    relative = [e.particles.position[1] - e.particles.position[0] for e in (here, there)]
    np.testing.assert_allclose(*relative, atol=1e-7)


SHORTENED = LogarithmicHamiltonian(0.3, GRAVITY)


@jax.jit
def whole_step():
    first = state_of(pair(0.7))
    return advance(SHORTENED, GRAVITY, start(SHORTENED, GRAVITY, first)).particles.dt


def place(time, kick):
    """Of the second body, kicked along x, after one step that ends then; and the time there."""
    first = state_of(pair(0.7))
    moved = first.replace(velocity=first.velocity.at[1, 0].add(kick))
    rollout = advance(SHORTENED, GRAVITY, start(SHORTENED, GRAVITY, moved), Limits(time=time))
    return rollout.particles.position[1], rollout.particles.time


SLOPES = [jax.jit(d(lambda t, k: place(t, k)[0], (0, 1))) for d in (jax.jacfwd, jax.jacrev)]
placed = jax.jit(place)


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.9])
def test_a_shortened_step_has_the_right_derivatives(share):
    time = share * whole_step() * (1 - 1e-9)
    np.testing.assert_allclose(placed(time, 0.0)[1], time, rtol=1e-14)
    (by_time, by_kick), back = (slope(time, 0.0) for slope in SLOPES)
    np.testing.assert_allclose(by_time, back[0], rtol=1e-10, atol=1e-12)
    small = 1e-4 * time
    slope = (placed(time + small, 0.0)[0] - placed(time - small, 0.0)[0]) / (2 * small)
    np.testing.assert_allclose(by_time, slope, rtol=1e-4, atol=1e-4)
    small = 1e-4
    slope = (placed(time, small)[0] - placed(time, -small)[0]) / (2 * small)
    np.testing.assert_allclose(by_kick, slope, rtol=1e-4, atol=1e-6)


def test_side_by_side_each_ends_at_its_own_time():
    states = jax.vmap(state_of)(jnp.asarray([pair(0.2), pair(0.9), pair(2.0)]))
    rule = LogarithmicHamiltonian(0.05, GRAVITY)
    times = jnp.array([0.01, 3.0, 50.0])
    ends = jax.vmap(lambda p, t: run_until(rule, GRAVITY, p, Limits(t)))(states, times)
    np.testing.assert_allclose(ends.particles.time, times, rtol=1e-14)


def test_a_step_with_kinetic_energy_about_the_barycentre_takes_the_time_it_says():
    state = state_of(pair(0.4) + np.array([0, 0, 0, 5.0, 0]))
    binding = jnp.asarray(0.25 * 0.6 / 2)
    end = logarithmic_leapfrog(state, 0.01, binding, GRAVITY)
    np.testing.assert_allclose(end.dt, 0.01 / 0.25, rtol=1e-3)
    centre = np.mean(np.asarray(end.position), axis=0)
    np.testing.assert_allclose(centre, [5.0 * end.dt, 0], atol=1e-14)
