"""An objective is a file: this one, forty lines long, is trained, saved and drawn as any other."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_pair
from jaxstepper.training.objective import Objective, State, fresh
from jaxstepper.training.status import RUNNING

PAIRS = np.stack([kepler_pair(e, phase=np.pi) for e in (0.2, 0.5, 0.8)])
STEPS = 20


# --- the objective: dt as free fall has it ---------------------------------------------------


class Metrics(NamedTuple):
    epoch: jax.Array
    loss: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Progress(State):
    tables: jax.Array
    done: jax.Array
    loss: jax.Array


@dataclass(frozen=True)
class FreeFallAgain(Objective):
    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation

    def init(self, tables, key, variables=None):
        variables = variables or init_variables(self.network, key, self.features.size)
        tables, zero = jnp.asarray(tables, self.network.dtype), jnp.zeros((), jnp.int32)
        start = fresh(self.optimizer, variables, key)
        return Progress(**start, tables=tables, done=zero, loss=jnp.ones((), tables.dtype))

    def chunk(self, state, budget):
        def loss_of(params):
            rule = js.LearnedRule(self.network, {"params": params}, self.features, self.gravity)

            def off(table):
                p = js.from_table(table, self.gravity.acceleration, table.dtype)
                wanted = js.FreeFall(0.1).step_size((), p)[0]
                return jnp.log(rule.step_size(rule.init(p), p)[0] / wanted) ** 2

            return jnp.mean(jax.vmap(off)(state.tables))

        def turn(carry):
            state, budget = carry
            loss, slope = jax.value_and_grad(loss_of)(state.variables["params"])
            updates, optimizer = self.optimizer.update(slope, state.optimizer_state)
            params = optax.apply_updates(state.variables["params"], updates)
            variables = {**state.variables, "params": params}
            new = replace(state, variables=variables, optimizer_state=optimizer)
            return replace(new, done=state.done + 1, loss=loss), budget - 1

        def unfinished(carry):
            return (carry[1] > 0) & (carry[0].done < STEPS) & (carry[0].status == RUNNING)

        state, left = lax.while_loop(unfinished, turn, (state, budget))
        return state, left, state.done == STEPS

    def metrics(self, state):
        return Metrics(state.epoch, state.loss)

    def next_epoch(self, state):
        return replace(state, epoch=state.epoch + 1, done=jnp.zeros_like(state.done))


# --- what it gets without another line -------------------------------------------------------

OPTIONS = {"feature_type": "basic", "dropout": 0.0, "hidden_dims": (16,), "progress": False}


@pytest.fixture(scope="module")
def trained():
    optimizer = optax.adam(0.02)
    return js.train(PAIRS, objective=FreeFallAgain, optimizer=optimizer, epochs=12, **OPTIONS)


def test_it_trains(trained):
    losses = trained.history["loss"]
    assert list(trained.history["epoch"]) == list(range(12)) and trained.stopped == ""
    assert losses[-1] < 0.1 * losses[0]
    pair = js.from_table(PAIRS[1], Gravity().acceleration)
    rule = trained.rule()
    wanted, _ = js.FreeFall(0.1).step_size((), pair)
    np.testing.assert_allclose(rule.step_size(rule.init(pair), pair)[0], wanted, rtol=0.5)


def test_it_has_words(trained):
    objective, metrics = trained.start.objective, trained.result.metrics
    assert objective.line(metrics).startswith("loss=")
    (outcome,) = objective.summary(trained.result.state, metrics)
    assert (outcome.key, outcome.value) == ("final/loss", metrics["loss"])


def test_calls_may_end_anywhere(trained, monkeypatch):
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 3)
    again = js.train(
        PAIRS, objective=FreeFallAgain, optimizer=optax.adam(0.02), epochs=12, **OPTIONS
    )
    np.testing.assert_array_equal(again.history["loss"], trained.history["loss"])


def test_it_is_saved_drawn_and_loaded(trained, tmp_path):
    folder = trained.save(tmp_path / "mine")
    from jaxstepper.pictures.training_picture import training_figure

    labels = [axes.get_ylabel() for axes in training_figure(folder).axes]
    assert labels[0] == "loss"
    assert js.load_rule(folder).variables["params"].keys() == {"Dense_0", "Dense_1"}
    with pytest.raises(UserError, match="there is a run of this name"):
        trained.save(folder)
