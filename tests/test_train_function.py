"""`js.train`: bodies in, a rule out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commandline import call

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.initial_conditions import kepler_pair, plummer_batch, random_batch

PAIRS = np.stack([kepler_pair(e, phase=np.pi) for e in (0.2, 0.5, 0.8)])
QUICK = {
    "epochs": 2,
    "hidden_dims": (8,),
    "window_steps": 32,
    "window_batch": 4,
    "window_iterations": 2,
    "window_length": 1.0,
    "progress": False,
}
GATE = {"objective": "gate", "epochs": 3, "hidden_dims": (8, 8), "progress": False}


def dt_of(rule, table):
    p = js.from_table(table, js.Gravity().acceleration)
    return float(jax.jit(lambda p: rule.step_size(rule.init(p), p)[0])(p))


def same_numbers(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_it_comes_to_what_the_command_comes_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("pairs.npy", PAIRS)
    flags = "--seed 0 --hidden-dims 8 8 --epochs 3 --multi-orbit --num-orbits 3 --save-name run"
    assert call(f"train --ic-path pairs.npy --no-compilation-cache --quiet {flags}").code == 0
    mine = js.train(PAIRS, **GATE)
    saved = js.load_rule("checkpoints/run")
    same_numbers(mine.rule().variables, saved.variables)


def test_windows_are_the_default_and_their_rule_takes_a_tolerance(tmp_path):
    seen = []
    trained = js.train(PAIRS[:2], on_epoch=seen.append, **QUICK)
    assert [row["epoch"] for row in seen] == [0, 1]
    assert set(trained.history) == set(seen[0]) and len(trained.history["relative_work"]) == 2
    careful, careless = (dt_of(trained.rule(tolerance=t), PAIRS[0]) for t in (1e-4, 1e-2))
    assert 0 < careful < careless
    folder = trained.save(tmp_path / "mine")
    assert dt_of(js.load_rule(folder, tolerance=1e-2), PAIRS[0]) == careless


@pytest.mark.parametrize("form", ["table", "particles", "batch"])
def test_bodies_come_in_every_form(form):
    one = js.from_table(PAIRS[0], js.Gravity().acceleration)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), one)
    bodies = {"table": PAIRS[0], "particles": one, "batch": both}[form]
    trained = js.train(bodies, **QUICK)
    assert trained.start.tables.shape == (2 if form == "batch" else 1, 2, 5)
    np.testing.assert_allclose(trained.start.tables[0], PAIRS[0], rtol=1e-15)


def test_more_bodies_see_their_surroundings(monkeypatch):
    started = []

    def stop(objective, state, epochs, **_):
        started.append(objective)
        raise UserError("enough")

    monkeypatch.setattr("jaxstepper.library.run", stop)
    with pytest.raises(UserError, match="enough"):
        js.train(plummer_batch(0, 2, 3), gravity=js.Gravity(0.1), **QUICK)
    assert started[0].features.kind == "encounters"
    assert started[0].gravity == js.Gravity(0.1)


class Wide(nn.Module):
    """With a name of its own, float32 weights, and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.1, deterministic=not train)(nn.gelu(nn.Dense(8)(x)))
        return nn.Dense(1)(x)


def test_a_module_and_an_optimiser_of_ones_own_are_taken(tmp_path):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3))
    bodies = random_batch(0, 4, 3, 2, 1.0, 0.1, 1.0)
    trained = js.train(bodies, network=Wide(), optimizer=optimizer, **{**GATE, "epochs": 8})
    assert trained.stopped == "" and len(trained.history["epoch"]) == 8
    # Calibrated, as a network of ours is: the first steps conserve energy.
    assert trained.history["mean_energy_error"][0] < 2e-4
    table, folder = bodies[0], trained.save(tmp_path / "wide")
    with pytest.raises(UserError, match="Wide"):
        js.load_rule(folder)
    assert dt_of(js.load_rule(folder, network=Wide()), table) == dt_of(trained.rule(), table)


class Ours(nn.Module):
    """What a StepNetwork of width 8 computes."""

    @nn.compact
    def __call__(self, x):
        dense = {"param_dtype": jnp.float64}
        hidden = jnp.tanh(nn.Dense(8, **dense)(x))
        return nn.Dense(2, **dense)(hidden)


def test_a_module_is_trained_as_one_of_ours_is():
    """By automatic differentiation, in the place of the pass backwards by hand."""
    from jaxstepper.network.step_network import OwnNetwork, StepNetwork, init_variables
    from jaxstepper.training.two_phase.backpropagation import descend, propose

    inputs, keys = jnp.linspace(-1, 1, 15).reshape(3, 5), jax.random.split(jax.random.key(0), 3)
    slope, trained = jnp.array([0.5, -1.0, 2.0]), jnp.array([True, False, True])
    network, own = StepNetwork((8,), dropout=0.0), OwnNetwork(Ours())
    variables = init_variables(network, jax.random.key(1), 5)
    wrapped = {"params": {"inner": variables["params"], "bias": jnp.zeros((1,))}, "constants": {}}
    results = []
    for module, start in ((network, variables), (own, wrapped)):
        optimizer = optax.sgd(0.1)
        dt, passes = propose(module, start, inputs, keys)
        state = optimizer.init(start["params"])
        params, _, finite = descend(module, optimizer, start, state, passes, slope, trained)
        assert finite
        results.append((dt, params.get("inner", params)))
    for x, y in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"lr": -1.0}, "lr = -1.0: must be a number > 0"),
        ({"output": "a.npz"}, "no such option"),
        ({"objective": "frog"}, "choose gate or window"),
        ({"fresh_every": 2}, "cannot be drawn anew"),
        ({"resume": True}, "no such option"),
    ],
)
def test_wrong_options_are_refused_in_a_line(options, words):
    with pytest.raises(UserError, match=words):
        js.train(PAIRS, **options)


def test_wrong_bodies_are_refused():
    with pytest.raises(UserError, match=r"a batch \[B, N, 1 \+ 2 D\]"):
        js.train(np.ones(3))
    with pytest.raises(UserError, match="same place"):
        js.train(np.ones((2, 5)))
