"""The scale-free learned rule: units, reversal, many bodies, symmetrising, tolerance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.controllers import scaled, symmetrized
from jaxstepper.dynamics import Gravity
from jaxstepper.features import FeatureSpec
from jaxstepper.initial_conditions import kepler_pair, plummer, pythagorean, random_table
from jaxstepper.native import learned_rule
from jaxstepper.networks import StepNetwork, init_variables
from jaxstepper.orbital import dynamical_time, orbital_inputs
from jaxstepper.pairs import Pairs, minimum_over_pairs, shortest_pairs
from jaxstepper.particles import from_table
from jaxstepper.simulate import reverse, run_steps

GRAVITY = Gravity()
NETWORK = StepNetwork((8,), dropout=0.0, positive=False)
FEATURES = FeatureSpec("orbital")
VARIABLES = init_variables(NETWORK, jax.random.PRNGKey(3), FEATURES.size)


def rule(tolerance=1e-3):
    return learned_rule(NETWORK, FEATURES, GRAVITY, VARIABLES, tolerance)


def state(table):
    return from_table(table, GRAVITY.acceleration, jnp.float64)


def step_size(controller, particles):
    return float(controller.step_size(controller.init(particles), particles)[0])


def pair_of(table):
    particles = state(table)
    return shortest_pairs(dynamical_time, particles, 0.0)


@pytest.mark.parametrize("e", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("phase", [0.0, 1.0, np.pi])
def test_the_inputs_are_those_of_the_orbit(e, phase):
    a, total = 1.7, 5.0
    inputs = orbital_inputs(pair_of(kepler_pair(e, a, 0.3, total, phase)))[0]
    r = a * (1 - e**2) / (1 + e * np.cos(phase))
    q = r * total * (2 / r - 1 / a) / total
    radial = np.sqrt(total / (a * (1 - e**2))) * e * np.sin(phase)
    cosine = radial / np.sqrt(q * total / r)
    np.testing.assert_allclose(inputs[0], np.log(q), atol=2e-5)
    np.testing.assert_allclose(inputs[1], cosine**2, atol=1e-12)
    np.testing.assert_allclose(inputs[2], np.sqrt(e**2 + 1e-4), atol=2e-5)
    np.testing.assert_allclose(inputs[3], (2 - q) / (2 + q), atol=2e-6)


def test_inputs_and_gradients_are_finite_at_rest_on_circles_and_far_above_escape():
    def one(r, v, r_dot_v):
        pairs = Pairs(*(jnp.array([x]) for x in (r, 1.0, r_dot_v, v, 1.0)))
        return jnp.sum(orbital_inputs(pairs)) + jnp.sum(dynamical_time(pairs))

    for v, r_dot_v in ((0.0, 0.0), (1.0, 0.0), (1e4, 0.0), (1e4, 1e4), (np.sqrt(2), 0.3)):
        value, gradient = jax.value_and_grad(one, (0, 1, 2))(1.0, v, r_dot_v)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_the_step_scales_with_the_dynamical_time():
    table = kepler_pair(0.6, phase=2.0, dim=3)
    length, mass = 7.0, 40.0
    larger = table * np.array([mass, *[length] * 3, *[np.sqrt(mass / length)] * 3])
    ratio = step_size(rule(), state(larger)) / step_size(rule(), state(table))
    np.testing.assert_allclose(ratio, np.sqrt(length**3 / mass), rtol=1e-12)


@pytest.mark.parametrize("table", [kepler_pair(0.6, phase=2.0), plummer(1, 24)])
def test_the_step_does_not_change_when_velocities_are_reversed_or_bodies_renumbered(table):
    wanted = step_size(rule(), state(table))
    back = table.copy()
    back[:, 1 + (table.shape[1] - 1) // 2 :] *= -1
    np.testing.assert_allclose(step_size(rule(), state(back)), wanted, rtol=1e-12)
    np.testing.assert_allclose(step_size(rule(), state(table[::-1])), wanted, rtol=1e-12)


def test_a_far_body_does_not_change_the_step_of_a_pair():
    table = kepler_pair(0.5, phase=1.0)
    far = np.concatenate([table, [[1.0, 1e5, 0, 0, 0]]])
    np.testing.assert_allclose(
        step_size(rule(), state(far)), step_size(rule(), state(table)), rtol=1e-12
    )


@pytest.mark.parametrize("count", [5, 24])
def test_the_shortest_pairs_hold_the_shortest_of_all(count):
    particles = state(random_table(0, count, 3, 1.0, 1.0, 1.0))
    pairs = shortest_pairs(dynamical_time, particles, 0.1)
    assert pairs.mu.shape == ((10,) if count == 5 else (24,))
    shortest = jnp.min(dynamical_time(pairs))
    assert shortest == minimum_over_pairs(dynamical_time, particles, 0.1)


def test_small_steps_go_as_the_square_root_of_the_tolerance_and_the_network_sees_larger_ones():
    particles = state(kepler_pair(0.5, phase=1.0))
    ratio = step_size(rule(1e-5), particles) / step_size(rule(1e-7), particles)
    np.testing.assert_allclose(ratio, 10.0, rtol=1e-12)
    ratio = step_size(rule(1e-2), particles) / step_size(rule(1e-3), particles)
    assert abs(ratio / np.sqrt(10.0) - 1) > 1e-3


@pytest.mark.parametrize("form", [lambda r: r, symmetrized])
def test_scaling_the_rule_is_scaling_the_root_of_its_tolerance(form):
    table = state(kepler_pair(0.5, phase=1.0))
    mine = run_steps(scaled(form(rule(1e-3)), 3.0), GRAVITY, table, 20).particles.position
    other = run_steps(form(rule(9e-3)), GRAVITY, table, 20).particles.position
    np.testing.assert_allclose(mine, other, rtol=1e-12)


def test_the_symmetrised_rule_returns():
    controller = symmetrized(rule(1e-4))
    begin = state(pythagorean())
    there = run_steps(controller, GRAVITY, begin, 200)
    turned = reverse(controller, there)
    from jaxstepper.simulate import advance

    back = jax.lax.fori_loop(0, 200, lambda _, r: advance(controller, GRAVITY, r), turned)
    moved = jnp.max(jnp.abs(there.particles.position - begin.position))
    error = jnp.max(jnp.abs(back.particles.position - begin.position))
    assert moved > 1e-3 and error < 1e-9 * moved
