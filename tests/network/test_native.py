"""The scale-free learned rule: units, reversal, many bodies, symmetrising, tolerance."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned import learned_rule
from jaxstepper.network.orbital_inputs import (
    binding,
    eccentric_inputs,
    orbital_inputs,
    square_of_dynamical_rate,
    stake,
    surroundings,
)
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, plummer, pythagorean, random_table
from jaxstepper.physics.pairs import (
    Pairs,
    encounters,
    fastest_encounters,
    square_of_free_fall,
    sum_over_pairs,
)
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rollout import reverse, run_steps
from jaxstepper.stepping.rule import scaled, symmetrized

GRAVITY = Gravity()
NETWORK = StepNetwork((8,), dropout=0.0, positive=False)
KINDS = ("orbital", "eccentric", "encounters")


@partial(jax.jit, static_argnums=0)
def drawn(size):
    return init_variables(NETWORK, jax.random.PRNGKey(3), size)


def rule(tolerance=1e-3, kind="orbital"):
    features = FeatureSpec(kind)
    variables = drawn(features.size)
    return learned_rule(NETWORK, features, GRAVITY, variables, tolerance)


@jax.jit
def state(table):
    return from_table(table, GRAVITY.acceleration, jnp.float64)


@jax.jit
def first_dt(controller, particles):
    return controller.step_size(controller.init(particles), particles)[0]


def step_size(controller, particles):
    return float(first_dt(controller, particles))


@jax.jit
def pair_of(table):
    return encounters(square_of_dynamical_rate, state(table), 0.0)[0]


@pytest.mark.parametrize("e", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("phase", [0.0, 1.0, np.pi])
def test_the_inputs_are_those_of_the_orbit(e, phase):
    a, total = 1.7, 5.0
    inputs = jax.jit(orbital_inputs)(pair_of(kepler_pair(e, a, 0.3, total, phase)))[0]
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
        pairs = Pairs(*(jnp.array([x]) for x in (r, 1.0, 0.25, r_dot_v, v * v, 1.0)))
        return jnp.sum(orbital_inputs(pairs)) + 1 / jnp.sum(square_of_dynamical_rate(pairs))

    slopes = jax.jit(jax.value_and_grad(one, (0, 1, 2)))
    for v, r_dot_v in ((0.0, 0.0), (1.0, 0.0), (1e4, 0.0), (1e4, 1e4), (np.sqrt(2), 0.3)):
        value, gradient = slopes(1.0, v, r_dot_v)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_scales_with_the_dynamical_time(kind):
    table = kepler_pair(0.6, phase=2.0, dim=3)
    length, mass = 7.0, 40.0
    larger = table * np.array([mass, *[length] * 3, *[np.sqrt(mass / length)] * 3])
    mine = rule(kind=kind)
    ratio = step_size(mine, state(larger)) / step_size(mine, state(table))
    np.testing.assert_allclose(ratio, np.sqrt(length**3 / mass), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("table", [kepler_pair(0.6, phase=2.0), plummer(1, 24)])
def test_the_step_does_not_change_when_velocities_are_reversed_or_bodies_renumbered(table, kind):
    mine = rule(kind=kind)
    wanted = step_size(mine, state(table))
    back = table.copy()
    back[:, 1 + (table.shape[1] - 1) // 2 :] *= -1
    np.testing.assert_allclose(step_size(mine, state(back)), wanted, rtol=1e-12)
    np.testing.assert_allclose(step_size(mine, state(table[::-1])), wanted, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_far_body_does_not_change_the_step_of_a_pair(kind):
    table = kepler_pair(0.5, phase=1.0)
    far = np.concatenate([table, [[1.0, 1e5, 0, 0, 0]]])
    mine = rule(kind=kind)
    np.testing.assert_allclose(
        step_size(mine, state(far)), step_size(mine, state(table)), rtol=1e-9
    )


@pytest.mark.parametrize("count", [3, 5, 24])
def test_the_rates_of_encounters_add_up_to_those_of_all_pairs(count):
    particles = state(random_table(0, count, 3, 1.0, 1.0, 1.0))
    pairs, rates = encounters(square_of_dynamical_rate, particles, 0.1)
    assert pairs.mu.shape == rates.shape == (count,)
    of_all = sum_over_pairs(lambda pairs: square_of_dynamical_rate(pairs) ** 2, particles, 0.1)
    np.testing.assert_allclose(0.5 * jnp.sum(rates**4), of_all, rtol=1e-12)


def test_an_encounter_is_that_of_the_closest_pair_if_all_else_is_far():
    table = kepler_pair(0.5, phase=1.0)
    alone = pair_of(table)
    far = np.concatenate([table, [[1.0, 1e4, 0, 0, 0]]])
    *others, beside = pair_of(far)
    for mine, other in zip(others, alone[:-1], strict=True):
        np.testing.assert_allclose(mine[:2], np.repeat(other, 2), rtol=1e-7)
    assert alone.beside == 0
    np.testing.assert_allclose(beside[:2], 1e-4, rtol=1e-3)


@pytest.mark.parametrize("e", [0.3, 0.97, 0.999, 0.99999, 1.2])
def test_the_binding_of_a_pair_is_its_energy_over_all_that_adds_up_to_it(e):
    """v^2 / 2 - mu / r at pericentre over v^2 / 2 + mu / r; a parabola's stays above zero."""
    speed = np.sqrt(1 + e)
    pair = pair_of(np.array([[0.3, 0, 0, 0, 0], [0.7, 1, 0, 0, speed]]))
    wanted = abs(speed**2 / 2 - 1) / (speed**2 / 2 + 1)
    np.testing.assert_allclose(binding(pair), np.hypot(wanted, 1e-5), rtol=1e-9)


@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_towards_a_parabola_only_the_binding_still_changes(phase):
    """On orbits of one pericentre the inputs settle, and the binding goes as 1 - e."""

    def seen(e):
        pair = pair_of(kepler_pair(e, 1 / (1 - e), phase=phase))
        return float(binding(pair)[0]), eccentric_inputs(pair)[0]

    (near, inputs), (nearer, limit) = seen(0.99), seen(0.999)
    np.testing.assert_allclose(inputs, limit, atol=0.01)
    assert near / nearer == pytest.approx(10, rel=0.01)


def test_the_others_keep_the_binding_of_a_pair_above_zero_as_it_becomes_unbound():
    # At distance 1 and a sum of masses of 2 the speed of escape is 2.
    pair = [[1.0, 0, 0, 0, 0], [1.0, 1, 0, 0, 2.0]]
    alone, among = (pair_of(np.array(bodies)) for bodies in (pair, [*pair, [6.0, 0, 30, 0, 0]]))
    np.testing.assert_allclose(binding(alone), 1e-5, rtol=1e-9)
    np.testing.assert_allclose(binding(among)[:2], 0.25 * 6 / 30 / 2, rtol=1e-3)


def test_nothing_jumps_as_another_body_becomes_the_closest():
    def inputs(x):
        third = jnp.array([[1.0, 1.0 + x, 0.0, 0.3, 0.0]])
        table = jnp.concatenate([jnp.array([[1.0, 0, 0, 0, 0], [2.0, -1.0, 0, 0, 1.0]]), third])
        pairs, rates = encounters(square_of_dynamical_rate, state(table), 0.0)
        return jnp.append(orbital_inputs(pairs)[0], rates[0])

    np.testing.assert_allclose(inputs(1e-7), inputs(-1e-7), atol=1e-6)


def test_the_surroundings_are_softening_and_share_of_the_rates():
    particles = state(plummer(1, 24))
    pairs, rates = encounters(square_of_dynamical_rate, particles, 0.1)
    softened, log_share = surroundings(pairs, rates, 0.1).T
    np.testing.assert_allclose(softened, (0.1 / pairs.distance) ** 2, rtol=1e-12)
    share = rates / (0.5 * np.sum(rates**4)) ** 0.25
    np.testing.assert_allclose(np.exp(2 * log_share), share**2 + 0.02**2, rtol=1e-9)


def test_the_stake_of_a_passer_by_is_its_share_of_the_energy_and_that_of_a_binary_is_its_own():
    """In a sphere of energy -1/4, a pair of energy -1/8 to -2500, at pericentre and elsewhere."""
    sphere = plummer(1, 400)
    encountered = jax.jit(lambda table: encounters(square_of_free_fall, state(table), 0.0)[0])
    for a, e, phase in ((1e-4, 0.9, 0.0), (1e-4, 0.9, 1.0), (1e-8, 0.9, 0.0), (1e-8, 0.3, 3.0)):
        pair = kepler_pair(e, a, total_mass=0.01, phase=phase, dim=3)
        r = np.linalg.norm(pair[1, 1:4] - pair[0, 1:4])
        pairs = encountered(np.concatenate([pair, sphere]))
        kinetic_and_depth = 0.005**2 * (2 / r - 1 / (2 * a))
        of_others = 0.25
        kinetic = of_others + 0.5 * 0.0025 * (2 / r - 1 / a) * 0.01
        wanted = kinetic_and_depth / np.hypot(0.005**2 / (2 * a), of_others)
        np.testing.assert_allclose(stake(pairs, kinetic)[:2], wanted, rtol=1e-3)


def test_a_tight_binary_shortens_the_step_by_the_root_of_its_stake():
    """It holds a share of the energy that goes with its size; beyond, it is an orbit by itself."""
    table, mine = plummer(1, 24), rule(kind="encounters")
    pairs, rates = encounters(square_of_free_fall, state(table), 0.0)
    of_all = np.asarray(mine.rates_of(pairs, rates, 0.25) / rates)
    np.testing.assert_allclose(of_all**2, 1 + 5 * stake(pairs, 0.25), rtol=1e-12)
    assert 1 < of_all.min() < 1.15


def test_a_massless_body_counts_as_one_of_the_others_mass():
    table = kepler_pair(0.9, dim=3)
    table[1, 0] = 0
    pairs, _ = encounters(square_of_free_fall, state(table), 0.0)
    np.testing.assert_allclose(stake(pairs, 0.1), 1 / binding(pairs), rtol=1e-12)


def test_the_fastest_encounters_are_those_among_the_fastest_bodies():
    """Also where bodies do not fill up their blocks, and beside massless bodies."""
    table = plummer(1, 45)
    table[7:9, 0] = 0
    particles = state(table)
    rates = encounters(square_of_free_fall, particles, 0.01)[1]
    fastest = np.argsort(-rates)[:6]
    of_these = encounters(square_of_free_fall, state(table[fastest]), 0.01)
    mine = fastest_encounters(particles, 0.01, 6)
    for name in Pairs._fields:
        # The pull of the others is that of all.
        if name != "acceleration":
            x, y = (getattr(pairs, name) for pairs, _ in (mine, of_these))
            np.testing.assert_allclose(x, y, rtol=1e-12)
    np.testing.assert_allclose(mine[1], of_these[1], rtol=1e-12)
    assert np.all(mine[1] < rates[fastest]) and np.all(mine[1] > 0.85 * rates[fastest])


def test_the_fastest_bodies_alone_have_nearly_the_step_of_all():
    particles, mine = state(plummer(1, 24)), rule(kind="encounters")
    wanted = step_size(mine, particles)
    off = [step_size(replace(mine, fastest=k), particles) / wanted - 1 for k in (4, 12, 24)]
    assert 0 < abs(off[1]) < abs(off[0]) < 0.2
    assert abs(off[1]) < 0.02 and off[2] == 0


def test_the_fastest_encounters_have_derivatives():
    few, table = replace(rule(kind="encounters"), fastest=4), jnp.asarray(plummer(1, 20))

    @jax.jit
    @jax.value_and_grad
    def time(table):
        return few.step_size(few.init(state(table)), state(table))[0]

    change = 1e-6 * np.random.default_rng(0).normal(size=table.shape)
    measured = (time(table + change)[0] - time(table - change)[0]) / 2
    np.testing.assert_allclose(jnp.sum(time(table)[1] * change), measured, rtol=1e-4)


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
    from jaxstepper.stepping.rollout import advance

    back = jax.lax.fori_loop(0, 200, lambda _, r: advance(controller, GRAVITY, r), turned)
    moved = jnp.max(jnp.abs(there.particles.position - begin.position))
    error = jnp.max(jnp.abs(back.particles.position - begin.position))
    assert moved > 1e-3 and error < 1e-9 * moved
