"""Tables of bodies against closed forms and an independent integrator."""

import math

import numpy as np
import pytest
import rebound
from scipy import stats

from jaxstepper.errors import UserError
from jaxstepper.physics import initial_conditions as ic


def energy(table):
    """Unsoftened energy, kinetic and potential, body by body so that N = 4000 fits in memory."""
    dim = (table.shape[1] - 1) // 2
    mass, position, velocity = table[:, 0], table[:, 1 : 1 + dim], table[:, 1 + dim :]
    potential = sum(
        -mass[i] * np.sum(mass[i + 1 :] / np.linalg.norm(position[i + 1 :] - position[i], axis=1))
        for i in range(len(mass) - 1)
    )
    return 0.5 * np.sum(mass * np.sum(velocity**2, axis=1)), potential


def angular_momentum(table):
    mass, x, y, vx, vy = table.T
    return np.sum(mass * (x * vy - y * vx))


def rebound_simulation(table):
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    for mass, x, y, vx, vy in table:
        simulation.add(m=mass, x=x, y=y, vx=vx, vy=vy)
    return simulation


# --- drawn tables ---------------------------------------------------------------------------


def test_random_table_is_bit_for_bit_the_recorded_draw():
    recorded = [
        [1.0, 0.004890238830153849, -0.024356829954837608, 1.311669929534873, 1.0394191393190977],
        [1.0, 0.05635948176514273, -0.0006563319104034484, -0.6960653514022568, -1.173083294856197],
        [1.0, -0.061249720595296576, 0.02501316186524106, -0.6156045781326164, 0.13366415553709918],
    ]
    table = ic.random_table(0, 3, 2, mass=1.0, pos_scale=0.1, vel_scale=1.0)
    assert table.dtype == np.float64
    np.testing.assert_array_equal(table, recorded)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_random_table_is_centred_without_weights_and_scaled(dim):
    table = ic.random_table(7, 5000, dim, mass=0.5, pos_scale=0.1, vel_scale=2.0)
    assert table.shape == (5000, 1 + 2 * dim)
    assert np.all(table[:, 0] == 0.5)
    np.testing.assert_allclose(table[:, 1:].mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(table[:, 1:].std(axis=0), [0.1] * dim + [2.0] * dim, rtol=0.05)


def test_random_table_without_a_seed_differs_each_time():
    first, second = (ic.random_table(None, 3, 2, 1.0, 0.1, 1.0) for _ in range(2))
    assert not np.array_equal(first, second)


def test_random_batch_draws_systems_one_after_another():
    batch = ic.random_batch(3, 4, 5, 3, 1.0, 0.1, 1.0)
    rng = np.random.default_rng(3)
    assert batch.shape == (4, 5, 7)
    np.testing.assert_array_equal(batch[0], ic.random_table(3, 5, 3, 1.0, 0.1, 1.0))
    for system in batch:
        np.testing.assert_array_equal(system, ic.random_table(rng, 5, 3, 1.0, 0.1, 1.0))


def test_kepler_batch_draws_e_then_a_per_orbit():
    batch = ic.kepler_batch(11, 3, 0.6, 0.95, 0.8, 1.2, mass=1.5, dim=3)
    rng = np.random.default_rng(11)
    assert batch.shape == (3, 2, 7)
    for table in batch:
        eccentricity = rng.uniform(0.6, 0.95)
        semi_major = rng.uniform(0.8, 1.2)
        expected = ic.kepler_table(eccentricity, semi_major, (1.5, 1.5), dim=3)
        np.testing.assert_array_equal(table, expected)


# --- Kepler pairs ---------------------------------------------------------------------------


def test_kepler_table_is_split_in_halves_whatever_the_masses():
    table = ic.kepler_table(0.9, 2.0, masses=(3.0, 1.0), dim=3)
    speed = math.sqrt(4.0 * 1.9 / (2.0 * 0.1))
    expected = [[3, -0.1, 0, 0, 0, speed / 2, 0], [1, 0.1, 0, 0, 0, -speed / 2, 0]]
    np.testing.assert_allclose(table, expected, rtol=1e-15)


@pytest.mark.parametrize("eccentricity", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("phase", [0.0, 1.0, math.pi, 5.0])
def test_kepler_pair_has_the_energy_angular_momentum_and_period_of_its_orbit(eccentricity, phase):
    a, m1, m2 = 1.7, 2.0, 0.5
    table = ic.kepler_pair(eccentricity, a, mass_ratio=m2 / m1, total_mass=m1 + m2, phase=phase)
    reduced_mass = m1 * m2 / (m1 + m2)
    momentum = reduced_mass * math.sqrt((m1 + m2) * a * (1 - eccentricity**2))
    period = 2 * math.pi * math.sqrt(a**3 / (m1 + m2))
    np.testing.assert_allclose(table[:, 0], [m1, m2], rtol=1e-15)
    assert sum(energy(table)) == pytest.approx(-m1 * m2 / (2 * a), rel=1e-12)
    assert angular_momentum(table) == pytest.approx(momentum, rel=1e-12)
    assert ic.orbital_period(table) == pytest.approx(period, rel=1e-12)
    np.testing.assert_allclose(table[:, 0] @ table[:, 1:], 0, atol=1e-14)


@pytest.mark.parametrize("eccentricity", [0.1, 0.9])
@pytest.mark.parametrize("phase", [0.3, 2.0, 4.0])
def test_kepler_pair_has_the_elements_rebound_finds(eccentricity, phase):
    table = ic.kepler_pair(eccentricity, 1.3, mass_ratio=0.2, total_mass=3.0, phase=phase)
    simulation = rebound_simulation(table)
    orbit = simulation.particles[1].orbit(primary=simulation.particles[0])
    assert orbit.a == pytest.approx(1.3, rel=1e-12)
    assert orbit.e == pytest.approx(eccentricity, rel=1e-12)
    assert orbit.f % (2 * math.pi) == pytest.approx(phase, rel=1e-10)
    assert orbit.pomega == pytest.approx(0, abs=1e-12)  # pericentre on +x
    assert orbit.inc == pytest.approx(0, abs=1e-12)  # counter-clockwise
    assert ic.orbital_period(table) == pytest.approx(orbit.P, rel=1e-12)


def test_kepler_table_of_equal_masses_is_the_pair_turning_the_other_way():
    table, pair = ic.kepler_table(0.6, 1.2), ic.kepler_pair(0.6, 1.2)
    np.testing.assert_allclose(table[:, :3], pair[:, :3], rtol=1e-14)
    np.testing.assert_allclose(table[:, 3:], -pair[:, 3:], rtol=1e-14)
    assert sum(energy(table)) == pytest.approx(-1 / 2.4, rel=1e-13)
    assert ic.orbital_period(table) == pytest.approx(2 * math.pi * math.sqrt(1.2**3 / 2), rel=1e-13)


def test_orbital_period_is_none_unless_two_bodies_are_bound():
    unbound = ic.kepler_table(0.5, 1.0)
    unbound[:, 3:] *= 10
    coincident = np.array([[1.0, 0, 0, 0, 0], [1.0, 0, 0, 1, 0]])
    assert ic.orbital_period(unbound) is None
    assert ic.orbital_period(coincident) is None
    assert ic.orbital_period(ic.pythagorean()) is None


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ic.kepler_table(1.0, 1.0), "eccentricity"),
        (lambda: ic.kepler_table(-0.1, 1.0), "eccentricity"),
        (lambda: ic.kepler_pair(math.nan, 1.0), "eccentricity"),
        (lambda: ic.kepler_table(0.5, 0.0), "semi_major"),
        (lambda: ic.kepler_table(0.5, 1.0, masses=(-1.0, -1.0)), "mass"),
        (lambda: ic.kepler_pair(0.5, mass_ratio=0.0), "mass_ratio"),
        (lambda: ic.kepler_table(0.5, 1.0, dim=1), "dim"),
        (lambda: ic.figure_eight(dim=1), "dim"),
        (lambda: ic.hierarchical_triple(masses=(1.0, 0.0, 1.0)), "masses"),
        (lambda: ic.kepler_batch(0, 0, 0.1, 0.2, 1.0, 1.0, 1.0, 2), "num_orbits"),
        (lambda: ic.kepler_batch(0, 2, 0.3, 0.2, 1.0, 1.0, 1.0, 2), "e_min"),
        (lambda: ic.kepler_batch(0, 2, 0.1, 0.2, 1.0, 0.5, 1.0, 2), "a_min"),
        (lambda: ic.random_batch(0, 0, 3, 2, 1.0, 0.1, 1.0), "num_systems"),
        (lambda: ic.random_table(0, 1, 2, 1.0, 0.1, 1.0), "num_particles"),
        (lambda: ic.plummer(0, 0), "num_particles"),
        (lambda: ic.plummer_batch(0, 0, 4), "num_spheres"),
        (lambda: ic.plummer(0, 4, 3), "binaries"),
        (lambda: ic.plummer(0, 4, 1, (0.1, 0.01)), "semi_major"),
        (lambda: ic.plummer(0, 4, 1, eccentricity=(0.1, 1.0)), "eccentricity"),
    ],
)
def test_impossible_settings_are_refused_by_name(build, named):
    with pytest.raises(UserError, match=named):
        build()


# --- classic problems -----------------------------------------------------------------------


def test_pythagorean_triangle_is_at_rest_about_its_barycentre():
    table = ic.pythagorean(dim=3)
    mass, position = table[:, 0], table[:, 1:4]
    sides = [np.linalg.norm(position[i] - position[j]) for i, j in [(1, 2), (0, 2), (0, 1)]]
    np.testing.assert_array_equal(mass, sides)  # each mass faces the side of its length
    np.testing.assert_array_equal(mass @ table[:, 1:], np.zeros(6))
    assert not table[:, 4:].any()


def test_figure_eight_returns_after_one_period():
    table = ic.figure_eight()
    simulation = rebound_simulation(table)
    simulation.integrate(ic.FIGURE_EIGHT_PERIOD)
    state = [[p.x, p.y, p.vx, p.vy] for p in simulation.particles]
    np.testing.assert_allclose(state, table[:, 1:], atol=1e-6)


def test_hierarchical_triple_holds_both_orbits():
    masses = (1.0, 0.5, 0.7)
    table = ic.hierarchical_triple(0.8, 0.2, 12.0, 0.4, masses)
    np.testing.assert_allclose(table[:, 0], masses, rtol=1e-15)
    np.testing.assert_allclose(table[:, 0] @ table[:, 1:], 0, atol=1e-14)
    simulation = rebound_simulation(table)
    first, second, third = simulation.particles
    inner = second.orbit(primary=first)
    outer = third.orbit()  # Jacobi: about the barycentre of the first two
    assert (inner.a, inner.e) == pytest.approx((0.8, 0.2), rel=1e-10)
    assert (outer.a, outer.e) == pytest.approx((12.0, 0.4), rel=1e-10)
    assert abs(inner.f) == pytest.approx(0, abs=1e-6)
    assert abs(outer.f) == pytest.approx(math.pi, abs=1e-6)


def test_plummer_is_in_henon_units_and_virial_equilibrium():
    table = ic.plummer(0, 4000)
    kinetic, potential = energy(table)
    radius, speed = np.linalg.norm(table[:, 1:4], axis=1), np.linalg.norm(table[:, 4:], axis=1)
    assert table[:, 0].sum() == pytest.approx(1)
    np.testing.assert_allclose(table[:, 1:].mean(axis=0), 0, atol=1e-14)
    assert kinetic + potential == pytest.approx(-0.25, rel=0.04)
    assert -2 * kinetic / potential == pytest.approx(1, rel=0.04)
    assert np.median(radius) == pytest.approx(0.769, rel=0.05)
    scale = 3 * math.pi / 16
    assert np.all(speed**2 / 2 <= 1.05 / np.sqrt(radius**2 + scale**2))  # none escapes
    # The velocity dispersion follows sigma^2 = 1 / (2 sqrt(r^2 + b^2)) inside and outside.
    inner = radius < np.median(radius)
    for shell in (inner, ~inner):
        expected = np.mean(0.5 / np.sqrt(radius[shell] ** 2 + scale**2))
        assert np.mean(speed[shell] ** 2) == pytest.approx(expected, rel=0.07)
    for axis in range(1, 7):  # isotropic in place and velocity
        assert abs(np.mean(np.sign(table[:, axis]))) < 0.06


def test_plummer_repeats_for_a_seed():
    np.testing.assert_array_equal(ic.plummer(5, 64), ic.plummer(5, 64))
    assert not np.array_equal(ic.plummer(5, 64), ic.plummer(6, 64))


def test_plummer_batch_draws_spheres_one_after_another():
    batch = ic.plummer_batch(3, 4, 8)
    rng = np.random.default_rng(3)
    assert batch.shape == (4, 8, 7)
    for sphere in batch:
        np.testing.assert_array_equal(sphere, ic.plummer(rng, 8))


def test_binaries_in_a_sphere_are_on_orbits_of_the_ranges_anywhere_and_turned_anyhow():
    table = ic.plummer(1, 4000, 2000, (0.002, 0.05), (0.2, 0.9))
    mass, motion = table[0, 0], table[:, 1:].reshape(2000, 2, 6)
    x, v = np.split(motion[:, 1] - motion[:, 0], 2, axis=1)
    r, mu = np.linalg.norm(x, axis=1), 2 * mass
    spin = np.cross(x, v)
    a = 1 / (2 / r - np.sum(v**2, axis=1) / mu)
    e = np.sqrt(1 - np.sum(spin**2, axis=1) / (mu * a))
    anomaly = np.arctan2(np.sum(x * v, axis=1) / np.sqrt(mu * a), 1 - r / a)
    mean_anomaly = (anomaly - e * np.sin(anomaly)) / (2 * math.pi)
    shares = {
        "a": np.log(a / 0.002) / np.log(25),
        "e": (e**2 - 0.2**2) / (0.9**2 - 0.2**2),
        "phase": mean_anomaly + 0.5,
        "inclination": (spin[:, 2] / np.linalg.norm(spin, axis=1) + 1) / 2,
    }
    for name, share in shares.items():
        assert stats.kstest(share, "uniform").pvalue > 0.01, name
    # Their centres of mass are a Plummer sphere.
    centres = motion.mean(axis=1)
    sphere = np.hstack([np.full((2000, 1), 1 / 2000), centres])
    assert sum(energy(sphere)) == pytest.approx(-0.25, rel=0.06)


def test_a_sphere_without_binaries_is_that_of_its_seed_and_a_batch_has_none_to_most():
    np.testing.assert_array_equal(ic.plummer_batch(3, 2, 8), ic.plummer_batch(3, 2, 8, 0))
    spheres = ic.plummer_batch(3, 60, 8, 2, (1e-6, 1e-6))
    close = np.linalg.norm(spheres[:, ::2, 1:4] - spheres[:, 1::2, 1:4], axis=2) < 1e-5
    counts = np.bincount(close.sum(axis=1), minlength=3)
    assert np.all(counts > 10) and counts.sum() == 60
    np.testing.assert_array_equal(np.sort(close)[:, ::-1], close)  # the first pairs
