"""What training comes to does not depend on how it is cut, batched, ordered, placed or turned."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from training.small_runs import (
    PLAN,
    PLENTY,
    SEED,
    TABLES,
    assert_identical,
    saved,
    started,
    train_in_calls,
)

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.runs import checkpoints
from jaxstepper.training.run import train_chunk

# Without dropout, and with batches of phase 2 that hold every sample, nothing is drawn at random.
CERTAIN = replace(
    PLAN,
    network=StepNetwork((8,), "tanh", 0.0),
    features=FeatureSpec("basic"),
    replay_batch_size=100,
)
EPOCHS = 2


def accepted_steps(tables, plan=CERTAIN):
    """The dt and energies of the steps of an epoch, `[steps, B]`, and the failed attempts."""
    state = started(plan, tables, SEED)
    # Attempts one at a time, until the epoch would end and with it what it has to tell.
    while int(state.progress.step) < plan.steps_per_epoch:
        state, *_ = train_chunk(plan, state, np.int32(1), np.int32(1))
    shape = (plan.steps_per_epoch, len(tables))
    path = state.progress.trajectory
    dt, energy = (np.reshape(x, shape) for x in (path.particles.dt, path.energy))
    return dt, energy, int(state.progress.retrain_iterations.total)


def test_systems_that_are_equal_take_the_steps_of_one():
    one_dt, one_energy, failures = accepted_steps(TABLES[:1])
    assert failures > 0  # the network has trained on the way
    dt, energy, _ = accepted_steps(np.repeat(TABLES[:1], 3, axis=0))
    np.testing.assert_allclose(dt, np.repeat(one_dt, 3, axis=1), rtol=1e-9)
    np.testing.assert_allclose(energy, np.repeat(one_energy, 3, axis=1), rtol=1e-9)


def test_systems_in_another_order_take_the_same_steps():
    dt, energy, failures = accepted_steps(TABLES)
    assert failures > 0
    other_dt, other_energy, other_failures = accepted_steps(TABLES[::-1])
    assert failures == other_failures
    assert not np.allclose(dt[:, 0], dt[:, 1], rtol=1e-3)
    np.testing.assert_allclose(other_dt[:, ::-1], dt, rtol=1e-9)
    np.testing.assert_allclose(other_energy[:, ::-1], energy, rtol=1e-9)


def turned(table):
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([table[:, :1], table[:, 1:3] @ turn.T, table[:, 3:] @ turn.T], axis=1)


@pytest.mark.parametrize(
    "change",
    [
        turned,
        lambda table: table * [1, -1, 1, -1, 1],
        lambda table: table + np.array([0, 3.0, -2.0, 0, 0]),
        lambda table: table[::-1],
    ],
    ids=["turned", "mirrored", "moved", "bodies renumbered"],
)
def test_basic_features_see_neither_place_nor_direction_nor_number(change):
    # Of unequal masses: two equal bodies are equally far from their barycentre.
    table = TABLES[0] * np.array([[1.0, 1, 1, 1, 1], [3.0, 1, 1, 1, 1]])
    dt, _, failures = accepted_steps(table[None])
    assert failures > 0
    other, _, other_failures = accepted_steps(change(table)[None])
    assert failures == other_failures
    np.testing.assert_allclose(other, dt, rtol=1e-7)


# --- going on from saved arrays --------------------------------------------------------------


def at_moment(moment):
    """A state of PLAN, after as few attempts as it takes to come to such a moment."""
    state = started(PLAN, TABLES, SEED)
    if moment == "before the first attempt":
        return state
    for _ in range(200):
        state, *_ = train_chunk(PLAN, state, np.int32(EPOCHS), np.int32(1))
        p = state.progress
        epoch, step, failures = int(state.epoch), int(p.step), int(np.max(p.failures))
        here = {
            "in the middle of a step": failures > 0,
            "while one system waits for another": bool(np.any(p.waiting) & ~np.all(p.waiting)),
            "while the history warms up": step > 0 and int(np.min(state.accepted)) == 1,
            "in phase 2": int(p.replay_iterations) > 0,
            "between epochs": epoch == 1 and step == 0 and failures == 0,
        }
        if here[moment]:
            return state
    raise AssertionError(f"no state {moment}")


@pytest.fixture(scope="module")
def uncut():
    return saved(train_in_calls(PLAN, started(PLAN, TABLES, SEED), EPOCHS, PLENTY)[0])


@pytest.mark.parametrize(
    "moment",
    [
        "before the first attempt",
        "in the middle of a step",
        "while one system waits for another",
        "while the history warms up",
        "in phase 2",
        "between epochs",
    ],
)
def test_a_run_saved_at_any_moment_ends_bit_for_bit_as_if_it_had_not_stopped(
    moment, uncut, tmp_path
):
    state = at_moment(moment)
    checkpoints.write(tmp_path / "1", state, TABLES, config={}, metrics={}, about={})()
    again = checkpoints.restore(checkpoints.load(tmp_path), started(PLAN, TABLES, SEED + 1))
    assert_identical(again, saved(state))
    assert_identical(train_in_calls(PLAN, again, EPOCHS, PLENTY)[0], uncut)


@pytest.mark.parametrize("budget", [1, 2, 7])
def test_the_end_does_not_depend_on_where_device_calls_end(budget, uncut):
    assert_identical(train_in_calls(PLAN, started(PLAN, TABLES, SEED), EPOCHS, budget)[0], uncut)


def test_phases_that_random_numbers_decide_differ_from_seed_to_seed(uncut):
    """So the tests above would notice a key that is not saved."""
    state = started(PLAN, TABLES, SEED)
    state = state.replace(key=jax.random.PRNGKey(SEED + 1))
    other = saved(train_in_calls(PLAN, state, EPOCHS, PLENTY)[0])
    assert any(np.any(a != b) for a, b in zip(other, uncut, strict=True))
