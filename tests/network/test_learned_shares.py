"""The rule of shares: what it sees of a circle, its steps, and what they do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network.swinging_field import FIELD, MASSES, assert_it_follows_the_field
from stepping.round_trip import there_and_back

from jaxstepper.network.learned_shares import ShareRule, share_inputs
from jaxstepper.network.polynomial import DEGREE, WEIGHTS, Polynomial, powers
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, virial_system
from jaxstepper.physics.pairs import Pairs
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rule import symmetrized
from jaxstepper.stepping.scheme import Chin

ETA = 0.1
LEARNED = np.random.default_rng(0).normal(0, 0.5, WEIGHTS)
THREE = virial_system(3, [1.0, 2.0, 0.5])


def variables(weights):
    return {"params": {"weights": jnp.asarray(weights)}}


def rule(weights=LEARNED, eta=ETA, **more):
    return ShareRule(Polynomial(), variables(weights), eta, **more)


def bodies(table, dtype=np.float64):
    return from_table(table, Gravity().acceleration, dtype)


@jax.jit
def step_size(chosen, particles):
    return chosen.step_size((), particles)[0]


def all_pairs_by_hand(table):
    """Of every pair: its masses, r, v^2 and r.v."""
    mass, x, v = table[:, 0], table[:, 1:4], table[:, 4:]
    one, other = np.triu_indices(len(table), 1)
    apart, drift = x[other] - x[one], v[other] - v[one]
    r, squared = np.linalg.norm(apart, axis=1), np.sum(drift**2, axis=1)
    return mass[one], mass[other], r, squared, np.sum(apart * drift, axis=1)


def test_the_inputs_of_a_circle():
    """r = v = mu = M = 1 and m1 = m2: the depth is 1/4, and the energy -1/8."""
    one = jnp.ones(1)
    pairs = Pairs(one, one, one / 4, 0 * one, one, one)
    np.testing.assert_allclose(share_inputs(pairs, jnp.ones(()))[0], [1 / 3, 0, 2 / 3], rtol=1e-15)


def test_the_step_is_what_the_weights_say():
    """The whole formula once more, with sums of powers in the place of Horner's rule."""
    m1, m2, r, v2, r_dot_v = all_pairs_by_hand(THREE)
    mu = m1 + m2
    whole = v2 + 2 * mu / r
    u, w = v2 / whole, (r_dot_v / r) ** 2 / whole
    depth = m1 * m2 / r
    energy = np.sum(m1 * m2 * v2) / (2 * THREE[:, 0].sum()) - depth.sum()
    s = depth / (depth + abs(energy))
    terms = [u**i * w**j for i, j in powers(DEGREE) if i + j] + [s, u * s]
    factor = np.exp(np.arcsinh(LEARNED @ np.array(terms)))
    h = ETA * factor / np.sqrt(mu / r**3 + v2 / r**2)
    wanted = np.sum(h**-4) ** -0.25
    assert float(step_size(rule(), bodies(THREE))) == pytest.approx(wanted, rel=1e-13)


def test_with_weights_of_0_a_pair_takes_its_dynamical_time():
    m1, m2, r, v2, _ = all_pairs_by_hand(kepler_pair(0.5, dim=3))
    wanted = ETA / np.sqrt((m1 + m2) / r**3 + v2 / r**2)
    found = step_size(rule(np.zeros(WEIGHTS)), bodies(kepler_pair(0.5, dim=3)))
    np.testing.assert_allclose(found, wanted[0], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_are_the_same_in_every_frame_and_unit_and_direction(dtype):
    mass, x, v = THREE[:, :1], THREE[:, 1:4], THREE[:, 4:]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    length, mass_unit = 2.0**40, 2.0**10
    time = np.sqrt(length**3 / mass_unit)
    cases = (
        (np.hstack([mass, x + 1, v + np.array([3, -2, 1])]), 1),
        (np.hstack([mass, x @ turn, v @ turn]), 1),
        (np.hstack([mass, x, -v]), 1),
        (np.hstack([mass_unit * mass, length * x, length / time * v]), time),
        (np.hstack([mass / mass_unit, x / length, time / length * v]), 1 / time),
    )
    chosen = rule(LEARNED.astype(dtype))
    wanted = step_size(chosen, bodies(THREE, dtype))
    for table, unit in cases:
        found = step_size(chosen, bodies(table, dtype))
        np.testing.assert_allclose(found / unit, wanted, rtol=100 * np.finfo(dtype).eps)


def test_it_comes_back_on_chins_scheme():
    steps, begin = 300, bodies(THREE)
    there, back = there_and_back(symmetrized(rule()).on(Chin()), begin, steps)
    assert np.max(np.abs(there.position - begin.position)) > 0.1
    np.testing.assert_allclose(back.position, begin.position, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bodies_at_rest_and_massless_ones_have_steps(dtype):
    table = [[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    table = np.array([*table, [0, 0, 0, 2, 0, 0, 0]])
    for weights in (LEARNED, 10 * LEARNED):
        assert 0 < step_size(rule(weights.astype(dtype)), bodies(table, dtype)) < 1
        alone = step_size(rule(weights.astype(dtype)), bodies(table[[0, 2]], dtype))
        assert 0 < alone < 1
    slope = jax.grad(lambda t: step_size(rule(LEARNED.astype(dtype)), bodies(t, dtype)))
    assert np.all(np.isfinite(slope(jnp.asarray(table, dtype))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bodies_in_one_place_have_no_step(dtype):
    table = np.array([[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 1]])
    assert step_size(rule(LEARNED.astype(dtype)), bodies(table, dtype)) == 0


@pytest.mark.parametrize("masses", MASSES)
def test_bodies_without_a_pull_on_each_other_have_steps_in_a_field(masses):
    assert_it_follows_the_field(rule(external=FIELD).on(Chin()), masses)


def test_scaling_it_scales_its_steps():
    begin = bodies(THREE)
    ratio = step_size(rule().scaled(0.5), begin) / step_size(rule(), begin)
    assert float(ratio) == pytest.approx(0.5, rel=1e-14)
