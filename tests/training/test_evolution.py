"""Training by an evolution strategy: the strategy, its trials, and that calls may end anywhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.network.learned_criterion import LearnedCriterion, Weights
from jaxstepper.network.learned_pairs import PairRule
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer_batch, virial_batch
from jaxstepper.physics.particles import from_table
from jaxstepper.runs.checkpoints import load
from jaxstepper.runs.start import resume_training
from jaxstepper.settings.stored import from_dict
from jaxstepper.stepping.criteria import Aarseth
from jaxstepper.stepping.individual_rollouts import roll_out_individually
from jaxstepper.stepping.individual_state import evaluations
from jaxstepper.stepping.literature import huayno
from jaxstepper.stepping.rollout import Limits, run_until
from jaxstepper.stepping.scheme import Hermite
from jaxstepper.training.evolution.strategy import ask, fresh_strategy, tell
from jaxstepper.training.evolution.trial import (
    MEETINGS,
    POWER,
    SHARED_STEPS,
    try_on_all,
    try_out,
    try_out_shared,
)
from jaxstepper.training.run import run

SPHERES = plummer_batch(5, 6, 12)
TRIPLES = virial_batch(5, 32, 3, 10.0)
SOFT = Gravity(0.05)
OPTIONS = {
    "objective": "evolution",
    "population": 8,
    "rollouts": 4,
    "rollout_time": 0.5,
    "eta_max": 0.5,
    "softening": SOFT.softening,
    "progress": False,
}
EPOCHS = 12


# --- the strategy --------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("loss", "generations"))
def evolved(loss, start, generations):
    def generation(strategy, key):
        candidates = ask(strategy, key, 10)
        return tell(strategy, candidates, jax.vmap(loss)(candidates)), strategy.sigma

    keys = jax.random.split(jax.random.PRNGKey(0), generations)
    return jax.lax.scan(generation, fresh_strategy(start, 0.5), keys)


def valley(x):
    """Its least is 0 at 1; it is a thousand times as steep across as along."""
    turned = jnp.array([x[0] + x[1], x[0] - x[1], x[2]]) - jnp.array([2.0, 0.0, 1.0])
    return jnp.sum(jnp.array([1.0, 1e6, 1e3]) * turned**2)


def test_it_finds_the_bottom_of_a_narrow_valley_whose_shape_it_learns():
    end, _ = evolved(valley, jnp.array([3.0, -1.0, 0.0]), 150)
    np.testing.assert_allclose(end.mean, 1, atol=1e-6)
    # The covariance is that of the inverse Hessian, up to a factor.
    lengths = jnp.sqrt(jnp.linalg.eigvalsh(end.covariance))
    assert 200 < lengths[-1] / lengths[0] < 5000


def test_only_the_order_of_losses_counts():
    start = jnp.array([3.0, -1.0, 0.0])
    plain, _ = evolved(valley, start, 20)
    bent, _ = evolved(lambda x: jnp.log(valley(x)), start, 20)
    np.testing.assert_allclose(plain.mean, bent.mean, rtol=1e-9)


# --- a trial -------------------------------------------------------------------------------------


def test_a_trial_counts_and_weighs_as_a_rollout_does():
    time, etas = 0.5, jnp.array([0.02, 0.1])
    one = jax.jit(partial(try_out, gravity=SOFT, time=time))
    found = [one(Aarseth(eta), table=SPHERES[0]) for eta in etas]
    first = from_table(SPHERES[0], SOFT.acceleration, float)
    for eta, trial in zip(etas, found, strict=True):
        ((end, watch),), _ = roll_out_individually(
            None, Aarseth(eta), SOFT, [first], [time], [time / MEETINGS]
        )
        assert np.exp(trial.log_work) == pytest.approx(evaluations(end) / 12)
        assert np.exp(trial.log_error) == pytest.approx(float(watch.worst), rel=1e-6)
        assert trial.failed == 0
    together = try_on_all(Aarseth(etas), SOFT, jnp.asarray(SPHERES[:1]), time)
    mean = np.mean([trial.log_work + POWER * trial.log_error for trial in found])
    assert float(together.loss) == pytest.approx(mean)


@pytest.mark.parametrize("steps", [SHARED_STEPS, 40])
def test_a_trial_of_a_rule_does_too_and_counts_what_is_missing(steps, monkeypatch):
    monkeypatch.setattr("jaxstepper.training.evolution.trial.SHARED_STEPS", steps)
    rule, time = huayno(0.1).on(Hermite()), 3.0
    try_out = jax.jit(lambda rule, table: try_out_shared(rule, Gravity(), table, time))
    trial = try_out(rule, TRIPLES[0])
    first = from_table(TRIPLES[0], Gravity().acceleration, float)
    end = run_until(rule, Gravity(), first, Limits(time, steps))
    assert (int(end.steps) == steps) == (steps < SHARED_STEPS)
    work = (2 + int(end.steps)) * time / float(end.particles.time)
    assert np.exp(trial.log_work) == pytest.approx(work)
    assert 1e-8 < np.exp(trial.log_error) < 1e-2 and trial.failed == 0


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return js.train(SPHERES, epochs=EPOCHS, **OPTIONS)


def work(trained, weights, tables):
    network = trained.start.objective.network
    variables = {"params": {"weights": jnp.asarray(weights)}, "constants": {}}
    etas = jnp.array([0.05, 0.3])
    stacked = jax.vmap(lambda eta: LearnedCriterion(network, variables, eta))(etas)
    return float(try_on_all(stacked, SOFT, jnp.asarray(tables), 0.5).loss)


def test_it_learns_to_do_with_less_work_than_aarseths_criterion(trained):
    history = trained.history
    assert list(history["epoch"]) == list(range(EPOCHS)) and trained.stopped == ""
    assert history["relative_work"][0] == pytest.approx(1)  # where it begins
    assert np.mean(history["relative_work"][-3:]) < 0.9
    criterion = trained.criterion()
    weights = criterion.variables["params"]["weights"]
    assert criterion.eta == 0.02 and isinstance(criterion.network, Weights)
    held_out = plummer_batch(99, 8, 12)
    assert work(trained, weights, held_out) < work(trained, 0 * weights, held_out) - 0.03
    with pytest.raises(UserError, match="criterion"):
        trained.rule()


def test_calls_may_end_anywhere(trained, monkeypatch):
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 3)
    again = js.train(SPHERES, epochs=3, **OPTIONS)
    np.testing.assert_array_equal(again.history["loss"], trained.history["loss"][:3])


def test_it_is_saved_and_goes_on_to_the_same_end(trained, tmp_path):
    half = js.train(SPHERES, epochs=4, **OPTIONS)
    folder = half.save(tmp_path / "half")
    saved = load(folder)
    objective, state = resume_training(from_dict(saved.config)[0], saved)
    state = objective.next_epoch(state) if int(state.epoch) == 3 else state
    end = run(objective, state, EPOCHS)
    for mine, theirs in zip(
        jax.tree.leaves(end.state), jax.tree.leaves(trained.result.state), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert js.load_criterion(folder).variables["params"]["weights"].shape == (7,)
    with pytest.raises(UserError, match="individual steps.*load_criterion"):
        js.load_rule(folder, SOFT)


FEW = {"population": 4, "rollouts": 4, "rollout_time": 0.5, "progress": False}


def test_a_rule_of_shares_is_trained_through_its_scheme_and_saved(tmp_path):
    """Symmetrised on a scheme that can be, and not on Hermite's."""
    options = FEW | {"objective": "evolution", "feature_type": "shares", "seed": 0}
    on_chin = js.train(TRIPLES, epochs=2, **options)
    assert on_chin.history["relative_work"][0] == pytest.approx(1)
    objective, variables = on_chin.start.objective, on_chin.start.state.variables
    rule = objective.rule_of(variables, 0.2)
    assert rule.reversible and rule.scheme == js.Chin()
    on_hermite = js.train(TRIPLES, epochs=1, **options, scheme="hermite").start.objective
    assert on_hermite.rule_of(variables, 0.2).scheme == Hermite()
    assert not on_hermite.rule_of(variables, 0.2).reversible

    saved = js.load_rule(on_chin.save(tmp_path / "few"), tolerance=1e-4)
    assert saved.scheme == js.Chin()
    assert saved.rule.eta == pytest.approx(on_chin.rule(tolerance=1e-3).rule.eta / 10**0.25)
    weights = on_chin.rule().rule.variables["params"]["weights"]
    np.testing.assert_array_equal(saved.rule.variables["params"]["weights"], weights)
    assert weights.shape == (11,) and np.any(weights != 0)


def test_a_rule_for_few_bodies_begins_as_huaynos_and_is_saved(tmp_path):
    options = FEW
    trained = js.train(TRIPLES, objective="evolution", feature_type="pairs", epochs=2, **options)
    relative = trained.history["relative_work"]
    assert relative[0] == pytest.approx(1) and relative[1] != 1
    learned = trained.rule(tolerance=1e-4)
    saved = js.load_rule(trained.save(tmp_path / "few"), tolerance=1e-4)
    assert isinstance(saved, PairRule) and saved.eta == learned.eta
    weights = saved.variables["params"]["weights"]
    np.testing.assert_array_equal(weights, learned.variables["params"]["weights"])
    with pytest.raises(UserError, match="shared steps"):
        trained.criterion()
    with pytest.raises(UserError, match="all bodies share"):
        js.load_criterion(tmp_path / "few")
