"""Plans and states of two-phase training that are small enough for tests, in one place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.training.run import train_chunk
from jaxstepper.training.two_phase.gate import Gate
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.two_phase.state import init_train_state

PLENTY = 10**6
# Random in every way: dropout, and replay batches smaller than the trajectory.
PLAN = TwoPhase(
    StepNetwork((8,), "tanh", 0.5),
    FeatureSpec("delta_mag", 1),
    Gravity(0.01),
    optax.adam(1e-2),
    gate=Gate(num_steps=3),
    steps_per_epoch=2,
    replay_batch_size=3,
    replay_steps=5,
)
# Of this seed, one epoch of the first four does not converge.
SEED = 2
TABLES = np.stack([random_table(seed, 2, 2, 1.0, 1.0, 1.0) for seed in range(2)])


@partial(jax.jit, static_argnums=0)
def started(plan, tables, seed, variables=None):
    """A state whose network starts at a dt of about 0.1, too large for most states."""
    key = jax.random.PRNGKey(seed)
    if variables is None:
        variables = init_variables(plan.network, key, plan.features.size)
        last = f"Dense_{len(plan.network.hidden_dims)}"
        layer = {**variables["params"][last], "bias": jnp.full(2, -2.5, plan.network.dtype)}
        variables = {**variables, "params": {**variables["params"], last: layer}}
    return init_train_state(plan, tables, key, variables)


def saved(tree):
    """The numbers of a tree, which outlive its donation."""
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def assert_identical(one, other):
    """Bit by bit."""
    for a, b in zip(saved(one), saved(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def differs(one, other):
    return any(np.any(a != b) for a, b in zip(saved(one), saved(other), strict=True))


def train_in_calls(plan, state, epochs, budget, epochs_per_call=PLENTY):
    """Trains in device calls of so many attempts and epochs; the state and each epoch's metrics."""
    metrics = []
    while int(state.epoch) < epochs:
        last = min(int(state.epoch) + epochs_per_call, epochs)
        state, _, rows, ended = train_chunk(plan, state, np.int32(last), np.int32(budget))
        metrics += [jax.tree.map(lambda x, r=r: x[r], rows) for r in np.flatnonzero(ended)]
    return state, metrics
