"""The network against golden files, and its initialisation, dropout and dtype."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.network.features import FeatureSpec, network_input
from jaxstepper.network.history import empty_history
from jaxstepper.network.learned import LearnedRule
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.training.two_phase.gate import Gate, try_step

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "network.npz")
CASES = range(4)
TRAINING_FLOOR = 1e-12


def golden_case(case):
    """Settings, recorded arrays and the network without dropout."""
    prefix = f"case{case}/"
    g = {k.removeprefix(prefix): GOLDEN[k] for k in GOLDEN.files if k.startswith(prefix)}
    settings = json.loads(str(g["settings"]))
    network = StepNetwork(
        tuple(settings["hidden_dims"]),
        settings["activation"],
        0.0,
        settings["fourier_scale"],
        settings["fourier_dim"],
    )
    return settings, g, network


def params_of(settings, g, prefix):
    """Recorded weights as params; every layer of the recorded stack is counted, dropout too."""
    stride = 3 if settings["dropout"] > 0 else 2
    return {
        f"Dense_{k}": {
            "kernel": jnp.asarray(g[f"{prefix}/model.{k * stride}.weight"].T),
            "bias": jnp.asarray(g[f"{prefix}/model.{k * stride}.bias"]),
        }
        for k in range(len(settings["hidden_dims"]) + 1)
    }


@partial(jax.jit, static_argnums=(0, 2))
def initialised(network, seed, input_size):
    return init_variables(network, jax.random.key(seed), input_size)


def variables_of(settings, g):
    fourier = settings["fourier_scale"] > 0
    constants = {"B": jnp.asarray(g["state_dict/embedding.B"])} if fourier else {}
    return {"params": params_of(settings, g, "state_dict"), "constants": constants}


def assert_same_params(actual, expected, rtol):
    """Relative to the largest entry of each array."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.max(np.abs(b)))


@jax.jit
def start(table):
    particles = from_table(table, Gravity().acceleration, jnp.float64)
    inputs = network_input(FeatureSpec(), empty_history(0, particles), particles)
    return particles, inputs


@pytest.mark.parametrize("case", CASES)
def test_golden_outputs(case):
    settings, g, network = golden_case(case)
    outputs = jax.jit(network.apply)(variables_of(settings, g), jnp.asarray(g["inputs"]))
    np.testing.assert_allclose(outputs, g["outputs_eval"], rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_golden_dt_in_simulation(case):
    settings, g, network = golden_case(case)
    particles, _ = start(g["table"])
    rule = LearnedRule(network, variables_of(settings, g), FeatureSpec(), Gravity())
    dt, _ = jax.jit(rule.step_size)(rule.init(particles), particles)
    np.testing.assert_allclose(dt, g["predicted_dt_simulation"], rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_golden_gradient_and_five_optimiser_steps(case):
    settings, g, network = golden_case(case)
    variables = variables_of(settings, g)
    particles, inputs = start(g["table"])
    optimizer = optax.chain(
        optax.add_decayed_weights(settings["weight_decay"]), optax.adam(settings["lr"])
    )

    gate = Gate(
        num_steps=settings["n_steps"],
        lower=settings["E_lower"],
        upper=settings["E_upper"],
        monotone=False,
    )

    def step_size(params):
        return network.apply({**variables, "params": params}, inputs)[0] + TRAINING_FLOOR

    @jax.jit
    def train(params, optimizer_state):
        dt, pull_back = jax.vjp(step_size, params)
        trial = try_step(gate, Gravity(), particles, dt)
        (gradient,) = pull_back(trial.slope)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, dt, trial, gradient

    params, optimizer_state = variables["params"], optimizer.init(variables["params"])
    for k in range(5):
        params, optimizer_state, dt, trial, gradient = train(params, optimizer_state)
        np.testing.assert_allclose(dt, g[f"step{k}/dt"][0], rtol=1e-10)
        error = g[f"step{k}/relative_energy_error"][0]
        np.testing.assert_allclose(trial.error, error, rtol=1e-9)
        np.testing.assert_allclose(trial.loss, g[f"step{k}/loss"], rtol=1e-10)
        if k == 0:
            assert_same_params(gradient, params_of(settings, g, "gradient"), rtol=1e-9)
    assert_same_params(params, params_of(settings, g, "state_dict_after_5_steps"), rtol=1e-10)


def test_weights_and_biases_start_uniform_within_one_over_root_fan_in():
    input_size = 400
    network = StepNetwork((2000, 300))
    params = initialised(network, 0, input_size)["params"]
    for layer, fan_in in {"Dense_0": input_size, "Dense_1": 2000}.items():
        for name, values in params[layer].items():
            scaled = np.asarray(values).ravel() * np.sqrt(fan_in)
            assert np.max(np.abs(scaled)) <= 1, (layer, name)
            assert np.max(np.abs(scaled)) > 0.97, (layer, name)
            # Mean 0 and variance 1/3 of U(-1, 1), to five standard errors.
            assert abs(np.mean(scaled)) < 5 * np.sqrt(1 / 3 / scaled.size), (layer, name)
            assert abs(np.var(scaled) - 1 / 3) < 5 * np.sqrt(4 / 45 / scaled.size), (layer, name)
    assert params["Dense_2"]["bias"].shape == (2,)


def test_fourier_frequencies_are_normal_with_the_given_scale_and_not_trained():
    variables = initialised(StepNetwork((4,), fourier_scale=3.0), 0, 50)
    assert "B" not in variables["params"]
    frequencies = np.asarray(variables["constants"]["B"]).ravel() / 3.0
    assert frequencies.size == 128 * 50
    assert abs(np.mean(frequencies)) < 5 / np.sqrt(frequencies.size)
    assert abs(np.var(frequencies) - 1) < 5 * np.sqrt(2 / frequencies.size)
    assert variables["params"]["Dense_0"]["kernel"].shape == (256, 4)


def evaluate(network, *arguments, **options):
    return jax.jit(partial(network.apply, **options))(*arguments)


def linear_probe(dropout, width=20_000):
    """A network whose only hidden layer feels dropout, and whose second output sums it."""
    network = StepNetwork((width,), "sigmoid", dropout)
    variables = initialised(network, 1, 3)
    last = {"kernel": np.full((width, 2), 10.0 / width), "bias": np.zeros(2)}
    return network, {**variables, "params": {**variables["params"], "Dense_1": last}}


def test_dropout_is_active_in_training_only():
    network, variables = linear_probe(0.2)
    without, _ = linear_probe(0.0)
    x = jnp.ones(3)
    evaluated = evaluate(network, variables, x)
    np.testing.assert_array_equal(evaluated, evaluate(without, variables, x))

    @jax.jit
    def train(seed):
        return network.apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})

    first, second, again = train(0), train(1), train(0)
    np.testing.assert_array_equal(first, again)
    assert len({float(outputs[0]) for outputs in (evaluated, first, second)}) == 3


def test_dropout_keeps_the_mean_and_has_the_variance_of_its_rate():
    rate = 0.2
    network, variables = linear_probe(rate)
    x = jnp.ones(3)
    hidden = jax.tree.map(np.asarray, variables["params"]["Dense_0"])
    contributions = 1 / (1 + np.exp(-(x @ hidden["kernel"] + hidden["bias"]))) * 10.0 / 20_000

    @jax.jit
    @jax.vmap
    def train(key):
        return network.apply(variables, x, train=True, rngs={"dropout": key})[0]

    outputs = np.asarray(train(jax.random.split(jax.random.key(2), 200)))
    sums = np.log(np.expm1(outputs))
    variance = rate / (1 - rate) * np.sum(contributions**2)
    assert abs(np.mean(sums) - np.sum(contributions)) < 5 * np.sqrt(variance / len(outputs))
    assert abs(np.var(sums) / variance - 1) < 5 * np.sqrt(2 / len(outputs))


@pytest.mark.parametrize("fourier_scale", [-1.0, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_parameters_outputs_and_gradients_keep_their_dtype(dtype, fourier_scale):
    network = StepNetwork((8, 8), dropout=0.2, fourier_scale=fourier_scale, dtype=dtype)

    def everything(x, key):
        variables = init_variables(network, key, 11)

        def loss(params):
            rngs = {"dropout": key}
            return jnp.sum(network.apply({**variables, "params": params}, x, train=True, rngs=rngs))

        gradient = jax.grad(loss)(variables["params"])
        return variables, network.apply(variables, x), loss(variables["params"]), gradient

    shapes = jax.eval_shape(everything, jnp.ones((2, 11), dtype), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(dtype)}


def test_jit_and_vmap_agree_with_one_plain_row():
    network = StepNetwork((8,))
    variables = initialised(network, 0, 5)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)))
    rows = [network.apply(variables, row) for row in x]
    np.testing.assert_allclose(evaluate(network, variables, x), rows, rtol=1e-13)
    by_row = jax.jit(jax.vmap(network.apply, (None, 0)))
    np.testing.assert_allclose(by_row(variables, x), rows, rtol=1e-13)
