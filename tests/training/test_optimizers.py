"""The optimisers a training may choose, against their formulas."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.physics.initial_conditions import kepler_table
from jaxstepper.runs.objectives import make_objective
from jaxstepper.settings.command_line import parse

LR, DECAY, MOMENTUM = 0.1, 0.3, 0.7


def adam_step(w, gradients, decay):
    gradients = [g + decay * w for g in gradients]
    first = second = 0.0
    for g in gradients:
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
    count = len(gradients)
    return first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        ("--optimizer adam", lambda w, g, h: adam_step(w, [g, h], DECAY)),
        ("--optimizer adamw", lambda w, g, h: adam_step(w, [g, h], 0) + DECAY * w),
        (
            f"--optimizer sgd --momentum {MOMENTUM}",
            lambda w, g, h: MOMENTUM * (g + DECAY * w) + h + DECAY * w,
        ),
    ],
)
def test_optimizers_step_by_their_formulas(flags, step):
    """The second step at unmoved weights, after gradients g and h."""
    argv = [*flags.split(), "--lr", str(LR), "--weight-decay", str(DECAY)]
    tables = kepler_table(0.5, 1.0)[None]
    optimizer = make_objective(parse("train", argv).config, tables).optimizer
    w, g, h = 2.0, 0.5, -3.0
    state = optimizer.init(jnp.asarray(w))
    _, state = optimizer.update(jnp.asarray(g), state, jnp.asarray(w))
    update, _ = optimizer.update(jnp.asarray(h), state, jnp.asarray(w))
    moved = optax.apply_updates(jnp.asarray(w), update)
    assert float(moved) == pytest.approx(w - LR * step(w, g, h), rel=1e-12)
