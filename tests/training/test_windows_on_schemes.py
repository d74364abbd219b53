"""Training on windows through a scheme of fourth order, and from states after a while."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.test_window_training import PLAN, SPANS, TABLES

import jaxstepper as js
from jaxstepper.physics.diagnostics import internal_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair, orbital_period, virial_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.literature import free_fall
from jaxstepper.stepping.rule import Fixed, symmetrized
from jaxstepper.training.windows.draws import make_pool
from jaxstepper.training.windows.loss import Window, run_window, window_loss

GRAVITY = Gravity()
CHIN = js.Chin()
PAIR = kepler_pair(0.4, phase=np.pi)
PERIOD = orbital_period(PAIR)


@pytest.fixture(scope="module")
def windows():
    """Of free fall on Chin's scheme, at steps that differ by 2."""
    first = from_table(PAIR, GRAVITY.acceleration, jnp.float64)

    def of(eta):
        rule = symmetrized(free_fall(eta).on(CHIN))
        return run_window(rule, GRAVITY, first, jnp.asarray(PERIOD), 256)

    return jax.jit(jax.vmap(of))(jnp.array([0.1, 0.05]))


def test_work_at_equal_error_is_that_of_the_order(windows):
    # Along a curve of work and precision, log(steps) + log(error) / order does not change.
    work = windows.log_steps + windows.log_error / CHIN.order
    np.testing.assert_allclose(work[0], work[1], atol=0.05)
    np.testing.assert_allclose(windows.log_steps[1] - windows.log_steps[0], np.log(2), atol=0.02)
    losses = [
        window_loss(Window(*(x[i] for x in windows)), jnp.exp(windows.log_error[i]), CHIN.order)
        for i in range(2)
    ]
    np.testing.assert_allclose(losses[0], losses[1], atol=0.05)


def test_steps_that_swing_are_rough_on_fourth_order():
    class Swinging(js.Rule):
        scheme = CHIN

        def step_size(self, memory, particles):
            dt = jnp.where(memory, 0.02, 0.02 * np.exp(0.2))
            return dt, ~memory

        def init(self, particles):
            return jnp.asarray(False)

    first = from_table(PAIR, GRAVITY.acceleration, jnp.float64)
    swinging, even = (
        run_window(rule, GRAVITY, first, jnp.asarray(1.0), 64).roughness
        for rule in (Swinging(), Fixed(0.02).on(CHIN))
    )
    # Every change of log(dt) is 0.2, one way and back; but the first has none before it.
    np.testing.assert_allclose(swinging, 0.2**2, rtol=0.1)
    assert even < 1e-20


def test_windows_start_after_a_while():
    start = jax.jit(make_pool, static_argnums=0)
    key = jax.random.PRNGKey(1)
    before = start(PLAN, TABLES, SPANS, key).tables
    after = start(replace(PLAN, start=0.5), TABLES, SPANS, key).tables
    np.testing.assert_array_equal(before, TABLES)
    moved = np.max(np.abs(after[..., 1:] - before[..., 1:]), axis=(1, 2))
    assert np.all(moved > 1e-3)
    assert len(np.unique(moved)) == len(moved)

    def energy(table):
        return internal_energy(from_table(table, GRAVITY.acceleration, jnp.float64), GRAVITY)

    np.testing.assert_allclose(jax.vmap(energy)(after), jax.vmap(energy)(before), rtol=2e-3)
    # From apocentre, half an orbit ends at or before pericentre: the distance shrinks.
    apart = [np.linalg.norm(t[:, 1, 1:3] - t[:, 0, 1:3], axis=1) for t in (before, after)]
    assert np.all(apart[1] < apart[0])


def test_a_trained_rule_is_on_the_scheme_of_its_training(tmp_path):
    orbits = [kepler_pair(e, phase=np.pi) for e in (0.2, 0.4)]
    options = {"window_steps": 32, "window_batch": 2, "window_iterations": 1, "window_length": 1.0}
    trained = js.train(
        orbits, scheme="chin", epochs=1, hidden_dims=(4,), seed=0, progress=False, **options
    )
    rule = trained.rule()
    assert rule.scheme == CHIN
    loaded = js.load_rule(trained.save(tmp_path / "run"))
    assert loaded.scheme == CHIN
    first = from_table(PAIR, GRAVITY.acceleration, jnp.float64)
    dts = [each.step_size(each.init(first), first)[0] for each in (rule, loaded)]
    np.testing.assert_allclose(dts[0], dts[1], rtol=1e-14)


def test_masses_of_virial_draws_lie_in_their_range():
    tables = virial_batch(3, 40, 3, 10.0)
    masses = tables[..., 0]
    ratios = masses.max(axis=1) / masses.min(axis=1)
    np.testing.assert_allclose(masses.sum(axis=1), 1.0)
    assert 5 < ratios.max() <= 10
    np.testing.assert_allclose(virial_batch(3, 2, 3, 1.0)[..., 0], 1 / 3)
    for table in tables[:3]:
        state = from_table(table, GRAVITY.acceleration, jnp.float64)
        assert float(internal_energy(state, GRAVITY)) == pytest.approx(-0.25)
