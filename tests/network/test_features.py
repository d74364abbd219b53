"""The network's inputs against golden files, and what they do and do not depend on."""

from functools import partial, reduce
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.network.features import (
    ALL_PAIRS_UP_TO,
    FeatureSpec,
    Scales,
    automatic_scales,
    network_input,
    observe,
    reuses_acceleration,
)
from jaxstepper.network.history import empty_history, push
from jaxstepper.physics.gravity import Gravity, tidal_field
from jaxstepper.physics.particles import from_table

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "features.npz")
CASES = range(4)
K = 3


def golden_case(case):
    """The recorded arrays, gravity, initial state, and the four states of the history."""
    prefix = f"case{case}/"
    g = {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}
    gravity = Gravity(float(g["softening"]))
    start = state_of(g["table"], gravity)
    states = []
    for x, v, dt in zip(g["history/position"], g["history/velocity"], g["history/dt"], strict=True):
        table = np.concatenate([g["table"][:, :1], x, v], axis=1)
        state = state_of(table, gravity)
        states.append(state.replace(dt=jnp.asarray(dt)))
    return g, gravity, start, states


@partial(jax.jit, static_argnums=1)
def state_of(table, gravity):
    return from_table(table, gravity.acceleration, jnp.float64)


@partial(jax.jit, static_argnums=(0, 1))
def inputs(spec, gravity, state, past=()):
    """The network's inputs after the states `past`, oldest first."""
    window = empty_history(spec.history_len, state)
    for earlier in past:
        window = push(window, observe(spec, gravity, earlier))
    return network_input(spec, window, observe(spec, gravity, state))


def random_table(count=6, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    return np.hstack([rng.uniform(0.5, 2, (count, 1)), rng.normal(size=(count, 2 * dim))])


def random_state(count=6, dim=3, seed=0, gravity=None):
    return state_of(random_table(count, dim, seed), gravity or Gravity())


def scalings(g):
    return {"": Scales(), "_normalized": Scales(*map(float, g["norm_scales"]))}


@pytest.mark.parametrize("case", CASES)
def test_golden_features(case):
    g, gravity, start, _ = golden_case(case)
    specs = {
        kind + suffix: FeatureSpec(kind, 0, gravity.softening, scales)
        for kind in ("basic", "rich")
        for suffix, scales in scalings(g).items()
    }
    actual = jax.jit(lambda p: {name: inputs(spec, gravity, p) for name, spec in specs.items()})
    for name, values in actual(start).items():
        np.testing.assert_allclose(values, g[name], rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["basic", "rich", "delta_mag"])
@pytest.mark.parametrize("case", CASES)
def test_golden_windows(case, kind):
    g, gravity, _, states = golden_case(case)
    specs = {
        suffix: FeatureSpec(kind, K, gravity.softening, scales)
        for suffix, scales in scalings(g).items()
    }

    @jax.jit
    def windows(states):
        """Both scalings of the windows [K + 1, F] in which 0 to K past states are known."""
        spec = specs[""]
        seen = [observe(spec, gravity, state) for state in states]
        filled = [
            reduce(push, seen[K - count : K], empty_history(K, seen[K])) for count in range(K + 1)
        ]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *filled)
        return {
            suffix: jax.vmap(lambda w, spec=spec: network_input(spec, w, seen[K]))(stacked)
            for suffix, spec in specs.items()
        }

    for suffix, rows in windows(states).items():
        for filled, actual in enumerate(np.asarray(rows)):
            expected = g[f"history/{kind}{suffix}/filled{filled}"]
            assert actual.shape == expected.shape == (specs[suffix].size,)
            assert np.all(np.isfinite(actual))
            # The recorded system has NaN where a missing state meets softening 0, and only there.
            known = np.isfinite(expected)
            assert known.all() or (kind != "delta_mag" and filled < K and gravity.softening == 0)
            np.testing.assert_allclose(actual[known], expected[known], rtol=1e-12)


def test_a_missing_state_feels_no_acceleration():
    g, gravity, _, states = golden_case(0)
    recorded = g["history/basic/filled0"]
    actual = np.asarray(inputs(FeatureSpec("basic", K), gravity, states[K]))
    assert np.isnan(recorded).any()
    np.testing.assert_array_equal(actual[np.isnan(recorded)], 0.0)


@pytest.mark.parametrize("case", [1, 2])
def test_golden_automatic_scales(case):
    g, gravity, start, _ = golden_case(case)
    scales = automatic_scales(start, gravity.softening)
    actual = (scales.length, scales.speed, scales.acceleration, scales.time)
    np.testing.assert_allclose(actual, g["norm_scales"], rtol=1e-12)


def test_automatic_scales_of_a_batch_are_means_over_its_systems():
    systems = [random_state(3, 2, seed) for seed in range(2)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *systems)
    each = [automatic_scales(system, 0.0) for system in systems]
    together = automatic_scales(batch, 0.0)
    for name in ("length", "speed", "acceleration"):
        mean = np.mean([getattr(scales, name) for scales in each])
        np.testing.assert_allclose(getattr(together, name), mean, rtol=1e-14)
    np.testing.assert_allclose(together.time, together.length / together.speed, rtol=1e-14)


def test_delta_mag_without_a_history_means_basic():
    state = random_state()
    np.testing.assert_array_equal(
        inputs(FeatureSpec("delta_mag"), Gravity(), state), inputs(FeatureSpec(), Gravity(), state)
    )


@pytest.mark.parametrize("kind", ["basic", "rich"])
def test_velocity_reversal_changes_nothing(kind):
    state = random_state()
    spec = FeatureSpec(kind)
    reverse = state.replace(velocity=-state.velocity)
    np.testing.assert_array_equal(inputs(spec, Gravity(), reverse), inputs(spec, Gravity(), state))


def under_symmetries(tables):
    """Tables [N, 7] moved alike, by the name of the symmetry of space."""
    rng = np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shift, order = rng.normal(size=3), rng.permutation(len(tables[0]))
    parts = [np.split(table, [1, 4], axis=1) for table in tables]
    return {
        "translation": [np.hstack([m, x + shift, v]) for m, x, v in parts],
        "boost": [np.hstack([m, x, v + shift]) for m, x, v in parts],
        "rotation": [np.hstack([m, x @ rotation, v @ rotation]) for m, x, v in parts],
        "permutation": [table[order] for table in tables],
    }


@pytest.mark.parametrize("kind", ["basic", "rich", "delta_mag"])
def test_symmetries_of_space_leave_features_alone(kind):
    gravity = Gravity(0.05)
    spec = FeatureSpec(kind, 1, gravity.softening)
    past, now = random_table(seed=0), random_table(seed=1)
    past[:, 0] = now[:, 0]

    def inputs_of(past, now):
        return inputs(spec, gravity, state_of(now, gravity), [state_of(past, gravity)])

    original = inputs_of(past, now)
    for name, tables in under_symmetries([past, now]).items():
        np.testing.assert_allclose(inputs_of(*tables), original, rtol=1e-11, err_msg=name)


def test_row_blocked_pair_distances_agree_with_all_at_once(monkeypatch):
    state, spec = random_state(20), FeatureSpec("rich", softening=0.1)
    results = []
    for limit in (0, 20):
        monkeypatch.setattr("jaxstepper.network.features.ALL_PAIRS_UP_TO", limit)
        # A new function each time, as a compiled one would not look at the limit again.
        of_window = jax.jit(lambda window, state: network_input(spec, window, state))
        results.append(of_window(empty_history(0, state), state))
    np.testing.assert_allclose(*results, rtol=1e-13)


def test_pair_distances_of_many_bodies_are_a_direct_sum():
    state = random_state(ALL_PAIRS_UP_TO + 1)
    x = np.asarray(state.position)
    distances = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)]
    expected = (distances.min(), distances.mean(), distances.max())
    rich = inputs(FeatureSpec("rich"), Gravity(), state)
    np.testing.assert_allclose(rich[-4:-1], expected, rtol=1e-9)


@pytest.mark.parametrize(("kind", "length"), [("rich", 0), ("delta_mag", 1)])
def test_an_external_field_is_not_seen(kind, length):
    alone = Gravity(0.05)
    tide = Gravity(0.05, tidal_field(100.0, (5.0, 1.0, 0.0)))
    spec = FeatureSpec(kind, length, 0.05)
    assert reuses_acceleration(spec, alone) and not reuses_acceleration(spec, tide)
    features = []
    for gravity in (alone, tide):
        states = [random_state(seed=seed, gravity=gravity) for seed in (0, 1)]
        features.append(inputs(spec, gravity, states[1], states[:1]))
    np.testing.assert_allclose(*features, rtol=1e-13)


def test_delta_mag_softens_bodies_in_one_place():
    state = random_state()
    position = np.array(state.position)
    position[1] = position[0]
    state = state.replace(position=jnp.asarray(position))
    values = inputs(FeatureSpec("delta_mag", 2), Gravity(), state, [state])
    assert np.all(np.isfinite(values))


@pytest.mark.parametrize(("kind", "length"), [("basic", 0), ("rich", 2), ("delta_mag", 2)])
def test_gradients_of_features_are_finite_at_rest_and_with_missing_states(kind, length):
    @jax.jit
    @jax.grad
    def gradient(table):
        return jnp.sum(inputs(FeatureSpec(kind, length), Gravity(), state_of(table, Gravity())))

    at_rest = np.zeros((3, 5))
    at_rest[:, 0] = 1.0
    # The middle body is at the centre of mass, where |x - com| = 0.
    at_rest[:, 1] = [-1.0, 0.0, 1.0]
    assert np.all(np.isfinite(gradient(at_rest)))


def test_window_keeps_the_latest_states_in_order():
    states = [random_state(seed=seed).replace(dt=jnp.asarray(float(seed))) for seed in range(5)]
    window = empty_history(K, states[0])
    np.testing.assert_array_equal(window.position, np.zeros((K, 6, 3)))
    for state in states:
        window = push(window, state)
    np.testing.assert_array_equal(window.dt, [2.0, 3.0, 4.0])
    np.testing.assert_array_equal(window.position, [s.position for s in states[2:]])
