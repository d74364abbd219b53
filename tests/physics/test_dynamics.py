"""Forces, energies and the leapfrog against golden files, direct sums, closed forms and rebound."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rebound
from jax import lax

from jaxstepper.physics.diagnostics import angular_momentum, momentum, total_energy
from jaxstepper.physics.gravity import (
    PAIRS_AT_ONCE,
    SOURCES_AT_ONCE,
    UNROLLED_UP_TO,
    Gravity,
    self_acceleration,
    self_potential_energy,
    tidal_field,
)
from jaxstepper.physics.initial_conditions import kepler_pair, pythagorean
from jaxstepper.physics.integrators import leapfrog
from jaxstepper.physics.particles import from_table, to_table

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "dynamics.npz")
# Beyond the border between the two ways to sum over pairs.
MANY = UNROLLED_UP_TO + 1
# Rows in two whole blocks and a part of one.
SEVERAL_BLOCKS = 405
assert 2 < SEVERAL_BLOCKS / (PAIRS_AT_ONCE // SEVERAL_BLOCKS) < 3

accelerate = jax.jit(self_acceleration, static_argnums=2)
potential = jax.jit(self_potential_energy, static_argnums=2)
energy_of = jax.jit(total_energy, static_argnums=1)


@partial(jax.jit, static_argnums=1)
def state_of(table, gravity):
    return from_table(table, gravity.acceleration, jnp.float64)


@partial(jax.jit, static_argnums=1)
def evolve(start, gravity, dt, steps):
    return lax.fori_loop(0, steps, lambda _, p: leapfrog(p, dt, gravity.acceleration), start)


@pytest.fixture(params=["cpu", "accelerator"])
def platform(request, monkeypatch):
    """Sums over pairs as on that platform, wherever the test runs."""
    monkeypatch.setattr(
        "jaxstepper.physics.gravity.by_platform", lambda **ways: ways[request.param]()
    )
    accelerate.clear_cache()
    potential.clear_cache()
    yield
    accelerate.clear_cache()
    potential.clear_cache()


def direct_sum(position, mass, softening=0.0, dtype=np.float64):
    """Accelerations and potential energy, written as the formulas are."""
    x, m = np.asarray(position, dtype), np.asarray(mass, dtype)
    acceleration, energy = np.zeros_like(x), dtype(0)
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                dx = x[j] - x[i]
                r = np.sqrt(dx @ dx + dtype(softening) ** 2)
                acceleration[i] += m[j] * dx / r**3
                energy -= m[i] * m[j] / r / 2
    return acceleration, energy


def random_bodies(count, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)), rng.uniform(0.5, 2, count)


def random_state(count, dim, gravity, seed=0):
    position, mass = random_bodies(count, dim, seed)
    velocity = np.random.default_rng(seed + 1).normal(size=(count, dim))
    return state_of(np.concatenate([mass[:, None], position, velocity], axis=1), gravity)


def golden_case(case):
    prefix = f"case{case}/"
    g = {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}
    tide = tidal_field(float(g["tide_mass"]), tuple(g["tide_position"].tolist()))
    gravity = Gravity(float(g["softening"]), tide if g["tide_mass"] else None)
    return g, gravity, state_of(g["table"], gravity)


def assert_close(actual, desired, rtol=1e-12):
    """Relative to the largest entry, as sums of opposite terms may cancel in one entry."""
    np.testing.assert_allclose(actual, desired, rtol=0, atol=rtol * np.max(np.abs(desired)))


@pytest.mark.parametrize("case", range(6))
def test_golden_accelerations_energies_and_leapfrog(case):
    g, gravity, particles = golden_case(case)
    assert_close(particles.acceleration, g["acceleration"])
    assert_close(energy_of(particles, gravity), g["energy"])
    after = evolve(particles, gravity, float(g["dt"]), int(g["steps"]))
    assert_close(after.position, g["position_after"])
    assert_close(after.velocity, g["velocity_after"])
    assert_close(energy_of(after, gravity), g["energy_after"])
    assert after.dt == g["dt"]
    np.testing.assert_allclose(after.time, g["steps"] * g["dt"], rtol=1e-14)


def test_golden_cases_cover_tides_and_both_ways_to_sum():
    tides, counts = zip(
        *((bool(GOLDEN[f"case{i}/tide_mass"]), len(GOLDEN[f"case{i}/table"])) for i in range(6)),
        strict=True,
    )
    assert set(tides) == {False, True}
    assert min(counts) <= UNROLLED_UP_TO < max(counts)


@pytest.mark.parametrize(
    ("count", "dim", "softening"),
    [
        (2, 1, 0.0),
        (3, 2, 0.1),
        (UNROLLED_UP_TO, 3, 0.0),
        (MANY, 1, 0.1),
        (MANY, 3, 0.0),
        (SEVERAL_BLOCKS, 2, 0.1),
        (2 * SOURCES_AT_ONCE + 1, 3, 0.0),
    ],
)
def test_forces_and_energy_are_direct_sums(count, dim, softening, platform):
    position, mass = random_bodies(count, dim)
    acceleration, energy = direct_sum(position, mass, softening)
    assert_close(accelerate(position, mass, softening), acceleration)
    assert_close(potential(position, mass, softening), energy)


@pytest.mark.parametrize("count", [3, MANY])
def test_unrolled_and_blocked_sums_agree(count, monkeypatch):
    position, mass = random_bodies(count, 3)
    results = []
    for limit in (0, count):
        monkeypatch.setattr("jaxstepper.physics.gravity.UNROLLED_UP_TO", limit)
        # A new function each time, as a compiled one would not look at the limit again.
        both = jax.jit(lambda x, m: (self_acceleration(x, m, 0.1), self_potential_energy(x, m)))
        results.append(both(position, mass))
    (blocked, blocked_energy), (unrolled, unrolled_energy) = results
    assert_close(blocked, unrolled, rtol=1e-13)
    assert_close(blocked_energy, unrolled_energy, rtol=1e-13)


@pytest.mark.parametrize("count", [3, MANY])
def test_vmap_over_systems_of_different_masses(count):
    systems = [random_bodies(count, 2, seed) for seed in range(3)]
    positions, masses = (np.stack(z) for z in zip(*systems, strict=True))
    accelerations = jax.jit(jax.vmap(self_acceleration))(positions, masses)
    energies = jax.jit(jax.vmap(self_potential_energy))(positions, masses)
    for i, (position, mass) in enumerate(systems):
        acceleration, energy = direct_sum(position, mass)
        assert_close(accelerations[i], acceleration)
        assert_close(energies[i], energy)


@pytest.mark.parametrize("count", [4, MANY])
def test_a_very_close_pair_keeps_its_force(count, platform):
    position, mass = random_bodies(count, 3)
    position[1] = position[0] + 1e-9 * np.array([0.6, 0.0, 0.8])
    # The separation is rounded in the positions; from there on nothing may be lost.
    acceleration, energy = direct_sum(position, mass, dtype=np.longdouble)
    np.testing.assert_allclose(accelerate(position, mass)[:2], acceleration[:2], rtol=1e-12)
    np.testing.assert_allclose(potential(position, mass), energy, rtol=1e-12)


@pytest.mark.parametrize("count", [3, MANY])
def test_coincident_bodies_have_finite_forces_and_gradients(count, platform):
    position, mass = random_bodies(count, 2)
    position[1] = position[0]
    acceleration = accelerate(position, mass)
    # Each feels all others but not the body in its place.
    others, their_mass = np.delete(position, 1, axis=0), np.delete(mass, 1)
    np.testing.assert_allclose(acceleration[0], direct_sum(others, their_mass)[0][0], rtol=1e-12)
    np.testing.assert_allclose(acceleration[1], acceleration[0], rtol=1e-12)
    derivatives = jax.jit(jax.jacrev(self_acceleration, argnums=(0, 1)))
    energy_gradient = jax.jit(jax.value_and_grad(self_potential_energy, argnums=(0, 1)))
    results = derivatives(position, mass), energy_gradient(position, mass)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize("softening", [0.0, 0.1])
@pytest.mark.parametrize("count", [3, MANY])
def test_force_is_minus_the_gradient_of_the_energy(count, softening):
    position, mass = random_bodies(count, 3)
    gradient = jax.jit(jax.grad(self_potential_energy), static_argnums=2)
    force = mass[:, None] * accelerate(position, mass, softening)
    assert_close(-gradient(position, mass, softening), force)


def test_tide_is_minus_the_gradient_of_its_potential_and_vanishes_at_the_origin():
    tide = tidal_field(3.0, (10.0, 2.0, -1.0))
    position, _ = random_bodies(4, 3)
    position[0] = 0
    time = jnp.zeros(())
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(tide.potential(x, time))))(position)
    acceleration = jax.jit(tide.acceleration)(position, time)
    assert_close(acceleration, -gradient)
    np.testing.assert_allclose(acceleration[0], np.zeros(3), atol=1e-16)


def test_equal_tides_are_one_object():
    assert tidal_field(1.0, (5.0, 0.0)) is tidal_field(1.0, (5.0, 0.0))


@pytest.mark.parametrize("count", [3, MANY])
def test_gradient_of_the_forces_agrees_with_finite_differences(count, platform):
    position, mass = random_bodies(count, 2)
    mass = jnp.asarray(mass)
    direction = np.random.default_rng(5).normal(size=position.shape)
    h = 1e-5

    @jax.jit
    @jax.value_and_grad
    def weighted(x):
        return jnp.sum(jnp.sin(self_acceleration(x, mass, 0.1)))

    slope = np.vdot(weighted(position)[1], direction)
    ahead, behind = (weighted(position + side * h * direction)[0] for side in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)


def order_of_convergence(table, end_time, exact_position, steps):
    """Slope of log error against log dt."""
    start = state_of(table, Gravity())
    ends = [evolve(start, Gravity(), end_time / n, n).position for n in steps]
    errors = [np.linalg.norm(end - exact_position) for end in ends]
    return np.polyfit(np.log(1 / np.array(steps)), np.log(errors), 1)[0]


def test_leapfrog_converges_with_order_two_to_the_kepler_orbit():
    half_period = np.pi / np.sqrt(2.0)
    apocentre = kepler_pair(0.5, phase=np.pi)[:, 1:3]
    order = order_of_convergence(kepler_pair(0.5), half_period, apocentre, [200, 400, 800, 1600])
    assert abs(order - 2) < 0.02


def test_leapfrog_converges_with_order_two_to_rebound_ias15():
    table = pythagorean(3)
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    for m, x, y, z, vx, vy, vz in table:
        simulation.add(m=m, x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
    simulation.integrate(1.0)
    exact = np.array([[p.x, p.y, p.z] for p in simulation.particles])
    order = order_of_convergence(table, 1.0, exact, [250, 500, 1000, 2000])
    assert abs(order - 2) < 0.02


def test_leapfrog_is_reversible_at_constant_dt():
    gravity = Gravity(0.05)
    start = random_state(4, 3, gravity)
    there = evolve(start, gravity, 0.01, 200)
    assert np.linalg.norm(there.position - start.position) > 1
    back = evolve(there.replace(velocity=-there.velocity), gravity, 0.01, 200)
    np.testing.assert_allclose(back.position, start.position, atol=1e-11)
    np.testing.assert_allclose(-back.velocity, start.velocity, atol=1e-11)


def test_a_step_costs_one_evaluation_of_the_acceleration():
    calls = []

    def acceleration(position, mass, time):
        calls.append(time)
        return self_acceleration(position, mass)

    start = random_state(3, 2, Gravity())
    leapfrog(start, 0.25, acceleration)
    assert calls == [0.25]


@pytest.mark.parametrize(
    "table", [kepler_pair(0.3, mass_ratio=0.5, dim=3), pythagorean(3)], ids=["pair", "pythagorean"]
)
def test_leapfrog_agrees_with_rebound(table):
    """Rebound drifts, kicks, drifts: half a kick and half a drift at both ends make it ours."""
    dt, steps = 1e-3, 1000
    mass, position, velocity = table[:, 0], table[:, 1:4], table[:, 4:]
    velocity = velocity + 0.5 * dt * direct_sum(position, mass)[0]
    position = position + 0.5 * dt * velocity
    simulation = rebound.Simulation()
    simulation.integrator, simulation.dt = "leapfrog", dt
    for m, x, v in zip(mass, position, velocity, strict=True):
        simulation.add(m=m, **dict(zip(("x", "y", "z", "vx", "vy", "vz"), (*x, *v), strict=True)))
    simulation.steps(steps - 1)
    bodies = simulation.particles
    velocity = np.array([[p.vx, p.vy, p.vz] for p in bodies])
    position = np.array([[p.x, p.y, p.z] for p in bodies]) + 0.5 * dt * velocity
    velocity = velocity + 0.5 * dt * direct_sum(position, mass)[0]

    ours = evolve(state_of(table, Gravity()), Gravity(), dt, steps)
    np.testing.assert_allclose(ours.position, position, atol=1e-11)
    np.testing.assert_allclose(ours.velocity, velocity, atol=1e-11)


@pytest.mark.parametrize("count", [4, MANY])
def test_momentum_and_angular_momentum_are_conserved_to_rounding(count):
    gravity = Gravity(0.1)
    start = random_state(count, 3, gravity)
    after = evolve(start, gravity, 0.01, 500)
    np.testing.assert_allclose(momentum(after), momentum(start), atol=1e-12)
    np.testing.assert_allclose(angular_momentum(after), angular_momentum(start), atol=1e-11)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_angular_momentum_components(dim):
    p = random_state(5, dim, Gravity())
    m, x, v = (np.asarray(z) for z in (p.mass, p.position, p.velocity))
    tensor = np.einsum("n,ni,nj->ij", m, x, v)
    tensor = tensor - tensor.T
    entries = {2: (0, 1), 3: ([1, 2, 0], [2, 0, 1]), 4: np.triu_indices(4, 1)}[dim]
    actual = jax.jit(angular_momentum)(p)
    assert actual.shape == tensor[entries].shape
    np.testing.assert_allclose(actual, tensor[entries], rtol=1e-12)


def test_a_table_becomes_a_state_and_comes_back():
    table = pythagorean(3)
    particles = state_of(table, Gravity())
    np.testing.assert_array_equal(to_table(particles), table)
    assert particles.time == 0 and particles.dt == 0
    assert_close(particles.acceleration, direct_sum(table[:, 1:4], table[:, 0])[0])
