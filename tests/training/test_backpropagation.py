"""Backpropagation by hand, beside automatic differentiation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.network.step_network import ACTIVATIONS, StepNetwork, init_variables
from jaxstepper.training.two_phase.backpropagation import backward, gradient_of, propose

SAMPLES, FEATURES = 7, 5
SLOPE = jnp.linspace(-1.0, 2.0, SAMPLES)
NETWORKS = {
    **{name: StepNetwork((8, 9), activation=name) for name in ACTIVATIONS},
    "no dropout": StepNetwork((8, 9), dropout=0.0),
    "no softplus": StepNetwork((8, 9), positive=False),
    "fourier": StepNetwork((8, 9), fourier_scale=0.3, fourier_dim=6),
    "no hidden layer": StepNetwork(()),
    "eleven layers": StepNetwork((4,) * 11, dropout=0.1),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    """A network, its variables, inputs of samples, and their dropout keys."""
    network = NETWORKS[request.param]
    init = jax.jit(partial(init_variables, network, input_size=FEATURES))
    variables = init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (SAMPLES, FEATURES))
    return network, variables, inputs, jax.random.split(jax.random.key(2), SAMPLES)


def outputs_of(network, variables, inputs, keys):
    """Output 0 of each sample, plainly."""

    def output(features, key):
        return network.apply(variables, features, train=True, rngs={"dropout": key})[0]

    return jax.vmap(output)(inputs, keys)


def test_outputs_are_those_of_the_network(case):
    network, variables, inputs, keys = case
    outputs, _ = propose(network, variables, inputs, keys)
    np.testing.assert_array_equal(outputs, outputs_of(network, variables, inputs, keys))


def test_gradient_is_that_of_automatic_differentiation(case):
    network, variables, inputs, keys = case

    @jax.jit
    @jax.grad
    def expected_of(params):
        return SLOPE @ outputs_of(network, {**variables, "params": params}, inputs, keys)

    @jax.jit
    def by_hand(variables):
        _, passes = propose(network, variables, inputs, keys)
        return gradient_of(backward(network, variables["params"], passes, SLOPE))

    expected, gradient = expected_of(variables["params"]), by_hand(variables)
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15),
        gradient,
        expected,
    )


def test_samples_of_slope_zero_have_no_part(case):
    network, variables, inputs, keys = case

    @jax.jit
    def alone_and_among_others(variables):
        _, passes = propose(network, variables, inputs, keys)
        few = jax.tree.map(lambda x: x[2:4], passes)
        masked = jnp.zeros_like(SLOPE).at[2:4].set(SLOPE[2:4])
        return [
            gradient_of(backward(network, variables["params"], some, slope))
            for some, slope in ((few, SLOPE[2:4]), (passes, masked))
        ]

    alone, among_others = alone_and_among_others(variables)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15),
        alone,
        among_others,
    )
