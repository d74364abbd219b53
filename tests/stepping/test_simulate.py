"""Rollouts against plain Python loops, closed forms and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxstepper.network.features import FeatureSpec, network_input, observe
from jaxstepper.network.history import empty_history, push
from jaxstepper.network.learned import LearnedRule
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.conservation import report
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import (
    figure_eight,
    kepler_pair,
    kepler_table,
    pythagorean,
    random_batch,
)
from jaxstepper.physics.integrators import leapfrog
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.literature import power_law
from jaxstepper.stepping.recording import record
from jaxstepper.stepping.rollout import (
    Limits,
    blown_up_at,
    run_steps,
    run_systems,
    run_until,
)
from jaxstepper.stepping.rule import Controller, fixed, memoryless

GRAVITY = Gravity()


@partial(jax.jit, static_argnums=1)
def state_of(table, gravity=GRAVITY):
    return from_table(table, gravity.acceleration, jnp.float64)


def accelerations(position, mass):
    return np.array(
        [
            sum(
                m * (y - x) / np.linalg.norm(y - x) ** 3
                for m, y in zip(mass, position, strict=True)
                if y is not x
            )
            for x in position
        ]
    )


def python_rollout(table, dts):
    """Kick, drift, kick in numpy; positions and velocities after every step."""
    dim = (table.shape[1] - 1) // 2
    mass, position, velocity = np.split(table, [1, 1 + dim], axis=1)
    mass, states = mass[:, 0], [(position, velocity)]
    for dt in dts:
        velocity = velocity + 0.5 * dt * accelerations(list(position), mass)
        position = position + dt * velocity
        velocity = velocity + 0.5 * dt * accelerations(list(position), mass)
        states.append((position, velocity))
    return tuple(np.array(z) for z in zip(*states, strict=True))


@partial(jax.jit, static_argnums=(0, 1))
def initialised(network, size):
    return init_variables(network, jax.random.key(0), size)


def small_network(features):
    """Steps of about 0.02."""
    network = StepNetwork((8,), "tanh", 0.0)
    variables = initialised(network, features.size)
    last = variables["params"]["Dense_1"]
    last = {**last, "bias": jnp.full(2, -4.0)}
    return network, {**variables, "params": {**variables["params"], "Dense_1": last}}


def test_fixed_steps_agree_with_a_python_loop():
    table = figure_eight()
    rollout = run_steps(fixed(0.01), GRAVITY, state_of(table), 50)
    position, velocity = python_rollout(table, [0.01] * 50)
    np.testing.assert_allclose(rollout.particles.position, position[-1], rtol=0, atol=1e-13)
    np.testing.assert_allclose(rollout.particles.velocity, velocity[-1], rtol=0, atol=1e-13)
    assert rollout.steps == 50
    np.testing.assert_allclose(rollout.particles.time, 0.5, rtol=1e-14)


@pytest.mark.parametrize(
    ("limits", "steps", "time"),
    [
        (Limits(time=1.0), 34, 1.0),
        (Limits(time=0.9), 30, 0.9),
        (Limits(steps=10), 10, 0.3),
        (Limits(time=1.0, steps=10), 10, 0.3),
        (Limits(time=0.2, steps=10), 7, 0.2),
        (Limits(steps=0), 0, 0.0),
    ],
)
def test_a_rollout_ends_at_the_first_of_its_limits(limits, steps, time):
    rollout = run_until(fixed(0.03), GRAVITY, state_of(figure_eight()), limits)
    assert rollout.steps == steps
    np.testing.assert_allclose(rollout.particles.time, time, rtol=1e-14)


def test_the_last_step_is_shortened_and_only_that():
    table = figure_eight()
    rollout = run_until(fixed(0.03), GRAVITY, state_of(table), Limits(time=0.1))
    position, _ = python_rollout(table, [0.03, 0.03, 0.03, 0.01])
    np.testing.assert_allclose(rollout.particles.position, position[-1], rtol=0, atol=1e-14)
    np.testing.assert_allclose(rollout.particles.dt, 0.01, rtol=1e-13)


def test_a_record_holds_every_state_on_the_way(monkeypatch):
    # Several device calls, the last one not full. The softening makes this rollout compile anew.
    monkeypatch.setattr("jaxstepper.stepping.recording.MOST_STEPS_PER_CALL", 8)
    gravity, limits, table = Gravity(1e-9), Limits(time=0.59), figure_eight()
    start = state_of(table, gravity)
    rollout, trajectory = record(fixed(0.03), gravity, start, limits)
    until = run_until(fixed(0.03), gravity, start, limits)
    steps = int(rollout.steps)
    assert steps == int(until.steps) == 20
    np.testing.assert_allclose(rollout.particles.position, until.particles.position, rtol=1e-13)
    assert trajectory.time.shape == trajectory.energy.shape == (steps + 1,)
    assert trajectory.dt.shape == (steps,)
    assert trajectory.position.shape == trajectory.velocity.shape == (steps + 1, 3, 2)
    position, velocity = python_rollout(table, trajectory.dt)
    np.testing.assert_allclose(trajectory.position, position, rtol=0, atol=1e-13)
    np.testing.assert_allclose(trajectory.velocity, velocity, rtol=0, atol=1e-13)
    np.testing.assert_allclose(trajectory.time, np.append(0, np.cumsum(trajectory.dt)), rtol=1e-13)
    np.testing.assert_allclose(trajectory.dt, [0.03] * 19 + [0.02], rtol=1e-12)
    kinetic = 0.5 * np.sum(velocity**2, axis=(1, 2))
    pairs = ((0, 1), (0, 2), (1, 2))
    gaps = [np.linalg.norm(position[:, i] - position[:, j], axis=-1) for i, j in pairs]
    np.testing.assert_allclose(trajectory.energy, kinetic - sum(1 / r for r in gaps), rtol=1e-12)


@pytest.mark.parametrize(("kind", "length"), [("basic", 0), ("delta_mag", 2)])
def test_a_learned_rollout_is_the_network_asked_at_every_state(kind, length):
    features = FeatureSpec(kind, length)
    network, variables = small_network(features)
    controller = LearnedRule(network, variables, features, GRAVITY)
    start = state_of(pythagorean())
    rollout, trajectory = record(controller, GRAVITY, start, Limits(steps=5))

    @jax.jit
    def ask(window, state):
        observed = observe(features, GRAVITY, state)
        outputs = network.apply(variables, network_input(features, window, observed))
        return outputs[0] + 1e-6, push(window, observed)

    step = jax.jit(lambda state, dt: leapfrog(state, dt, GRAVITY.acceleration))
    state, window, dts = start, empty_history(length, start), []
    for _ in range(5):
        dt, window = ask(window, state)
        state = step(state, dt)
        dts.append(float(dt))
    np.testing.assert_allclose(trajectory.dt, dts, rtol=1e-12)
    assert len(set(dts)) == 5
    np.testing.assert_allclose(rollout.particles.position, state.position, rtol=0, atol=1e-13)


def test_vmapped_rollouts_each_end_at_their_own_limits():
    start = state_of(figure_eight())
    times, steps = np.array([0.1, 0.4, 0.4]), np.array([100, 100, 5])

    @jax.jit
    @jax.vmap
    def together(time, steps):
        return run_until(fixed(0.03), GRAVITY, start, Limits(time, steps))

    batch = together(times, steps)
    np.testing.assert_array_equal(batch.steps, [4, 14, 5])
    for i, (time, most) in enumerate(zip(times, steps, strict=True)):
        alone = run_until(fixed(0.03), GRAVITY, start, Limits(float(time), int(most)))
        np.testing.assert_allclose(
            batch.particles.position[i], alone.particles.position, rtol=0, atol=1e-14
        )
        np.testing.assert_allclose(batch.particles.time[i], alone.particles.time, rtol=1e-15)


@pytest.mark.parametrize(("kind", "length"), [("fixed", 0), ("basic", 0), ("delta_mag", 2)])
def test_many_systems_go_the_ways_they_go_alone(kind, length):
    features = FeatureSpec(kind, length)
    gravity, controller = Gravity(0.1), fixed(0.02)
    if kind != "fixed":
        controller = LearnedRule(*small_network(features), features, gravity)
    tables = jnp.asarray(random_batch(0, 4, 3, 2, 1.0, 1.0, 1.0))
    starts = jax.vmap(lambda table: state_of(table, gravity))(tables)
    together = run_systems(controller, gravity, starts, 5)
    for i in range(4):
        alone = run_steps(controller, gravity, jax.tree.map(lambda x, i=i: x[i], starts), 5)
        pairs = zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True)
        for many, one in pairs:
            np.testing.assert_allclose(many[i], one, rtol=1e-11, atol=1e-12)


def test_gradient_through_a_rollout_agrees_with_finite_differences():
    features = FeatureSpec()
    controller = LearnedRule(*small_network(features), features, GRAVITY)
    direction = np.zeros((3, 5))
    direction[:, 1:3] = np.random.default_rng(0).normal(size=(3, 2))
    h = 1e-5

    @jax.jit
    @jax.value_and_grad
    def end(table):
        particles = from_table(table, GRAVITY.acceleration, jnp.float64)
        rollout = run_steps(controller, GRAVITY, particles, 10)
        return jnp.sum(rollout.particles.position**3)

    slope = np.vdot(end(pythagorean())[1], direction)
    ahead, behind = (end(pythagorean() + side * h * direction)[0] for side in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize("dim", [2, 3])
def test_report_of_a_kepler_pair_in_closed_form(dim):
    eccentricity, ratio = 0.5, 3.0
    m1, m2 = 0.5, 1.5
    first = state_of(kepler_pair(eccentricity, 1.0, ratio, m1 + m2, dim=dim))
    # Speeds times 1.1 raise the kinetic energy by 21 % and the angular momentum by 10 %.
    last = first.replace(velocity=1.1 * first.velocity)
    result = report(GRAVITY, first, last, 7)
    energy = -m1 * m2 / 2
    kinetic = energy + m1 * m2 / (1 - eccentricity)
    spin = m1 * m2 / (m1 + m2) * np.sqrt((m1 + m2) * (1 - eccentricity**2))
    assert result["steps"] == 7
    np.testing.assert_allclose(result["energy_initial"], energy, rtol=1e-13)
    np.testing.assert_allclose(result["energy_final"], energy + 0.21 * kinetic, rtol=1e-13)
    np.testing.assert_allclose(result["energy_residual"], 0.21 * kinetic / energy, rtol=1e-12)
    np.testing.assert_allclose(result["momentum_initial"], np.zeros(dim), atol=1e-15)
    expected = spin if dim == 2 else [0, 0, spin]
    np.testing.assert_allclose(result["angular_momentum_initial"], expected, rtol=1e-13)
    sweep = sum(
        m * np.linalg.norm(x) * np.linalg.norm(v)
        for m, x, v in zip(first.mass, first.position, first.velocity, strict=True)
    )
    np.testing.assert_allclose(result["angular_momentum_residual"], 0.1 * spin / sweep, rtol=1e-10)


def test_report_of_moving_bodies_gives_the_momentum_residual():
    first = state_of(kepler_table(0.5, 1.0, (1.0, 2.0)))
    last = first.replace(velocity=-first.velocity)
    result = report(GRAVITY, first, last, 1)
    assert result["energy_residual"] == 0
    kinetic = 0.5 * np.sum(np.asarray(first.mass)[:, None] * np.asarray(first.velocity) ** 2)
    distance = np.linalg.norm(first.position[1] - first.position[0])
    np.testing.assert_allclose(result["energy_initial"], kinetic - 2 / distance, rtol=1e-13)
    np.testing.assert_array_equal(result["momentum_final"], -np.array(result["momentum_initial"]))
    # Relative to sum m |v| about the barycentre, which is 2 (m1 m2 / M) |v2 - v1|.
    drift = np.linalg.norm(result["momentum_initial"])
    speed = np.linalg.norm(first.velocity[1] - first.velocity[0])
    np.testing.assert_allclose(result["momentum_residual"], 2 * drift / (4 / 3 * speed), rtol=1e-11)
    # At pericentre, x and v are at right angles: L is sum m |x| |v|.
    np.testing.assert_allclose(result["angular_momentum_residual"], -2, rtol=1e-14)


def test_report_has_no_angular_momentum_residual_where_it_began_at_zero():
    at_rest = state_of(pythagorean())
    assert report(GRAVITY, at_rest, at_rest, 0)["angular_momentum_residual"] is None
    at_rest = state_of(pythagorean(3))
    assert report(GRAVITY, at_rest, at_rest, 0)["angular_momentum_residual"] == 0


def test_the_step_at_which_a_rollout_blew_up_is_found():
    def step_size(memory, particles):
        return jnp.where(particles.time < 0.0065, 1e-3, jnp.nan), memory

    rule = Controller(lambda particles: (), step_size)
    start = state_of(figure_eight())
    end = run_steps(rule, GRAVITY, start, 1000)
    assert not np.isfinite(end.particles.position).any()
    assert blown_up_at(rule, GRAVITY, start, 1000) == 8  # seven reach 0.007


def test_rollouts_of_other_settings_do_not_compile_again():
    starts = jax.vmap(state_of)(jnp.asarray(random_batch(0, 2, 3, 2, 1.0, 1.0, 1.0)))
    for run, particles in ((run_steps, state_of(figure_eight())), (run_systems, starts)):
        run(fixed(0.01), GRAVITY, particles, 3)
        compiled = run._cache_size()
        run(fixed(0.02), Gravity(), jax.tree.map(lambda x: 2 * x, particles), 3)
        assert run._cache_size() == compiled


@pytest.mark.parametrize(
    "rule_of",
    [fixed, lambda power: power_law(0.01, power), lambda c: memoryless(Partial(constant, c))],
    ids=["fixed", "power law", "memoryless"],
)
def test_the_numbers_of_a_rule_are_arguments_that_nothing_compiles_for(rule_of):
    start = state_of(figure_eight())
    run_steps(rule_of(0.01), GRAVITY, start, 2)
    compiled = run_steps._cache_size()
    run_steps(rule_of(0.02), GRAVITY, start, 2)
    assert run_steps._cache_size() == compiled


def constant(dt, particles):
    return dt
