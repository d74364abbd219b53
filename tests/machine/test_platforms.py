"""Programs for accelerators, made here and run there: they must lower, and need no float64."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.gravity import Gravity, self_acceleration, self_potential_energy
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.training.run import run_chunk
from jaxstepper.training.two_phase.gate import Gate
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.two_phase.state import init_train_state

MANY = 1000


def of_pairs(position, mass):
    """Forces and energy of many bodies."""
    return self_acceleration(position, mass, 0.01), self_potential_energy(position, mass, 0.01)


def lowered_pairs(platform):
    bodies = (
        jax.ShapeDtypeStruct((MANY, 3), jnp.float32),
        jax.ShapeDtypeStruct((MANY,), jnp.float32),
    )
    return jax.export.export(jax.jit(of_pairs), platforms=[platform])(*bodies)


def lowered_training(platform):
    plan = TwoPhase(
        StepNetwork((8,), dtype=jnp.float32),
        FeatureSpec("rich", 2),
        Gravity(0.01),
        optax.adam(1e-3),
        gate=Gate(num_steps=3),
        retrain_batch=200,
        replay_batch_size=200,
    )
    tables = np.stack([random_table(seed, 2, 3, 1.0, 1.0, 1.0) for seed in range(300)])
    start = init_train_state(plan, tables, jax.random.PRNGKey(0))
    numbers, tree = jax.tree.flatten(start)

    # Flat, for what is exported holds descriptions where the dataclasses expect arrays.
    def chunk(numbers, some):
        return jax.tree.leaves(run_chunk(plan, tree.unflatten(numbers), some, some))

    return jax.export.export(jax.jit(chunk), platforms=[platform])(numbers, np.int32(5))


@pytest.mark.parametrize("program", [lowered_pairs, lowered_training])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_lower_in_float32(program, platform):
    with jax.enable_x64(False):
        text = program(platform).mlir_module()
    assert "f32" in text
    assert "f64" not in text
