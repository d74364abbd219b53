"""The Adam of a run: optax's steps, in another form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.runs.plans import make_optimizer


@pytest.mark.parametrize("steps", [1, 40])
def test_adam_comes_to_what_optax_comes_to(steps):
    ours, theirs = make_optimizer("adam", 1e-2, 0.0, 0.9), optax.adam(1e-2)
    params = {"w": jnp.array([1.0, -2.0, 3.0, 0.0]), "b": jnp.array([0.5])}
    scale = {"w": jnp.array([1.0, 1e-6, 1e3, 1e-9]), "b": jnp.array([0.0])}

    def after(optimizer):
        state, x = optimizer.init(params), params
        for t in range(steps):
            gradient = jax.tree.map(lambda s, x, t=t: s * (x + jnp.cos(3.0 * t)), scale, x)
            updates, state = optimizer.update(gradient, state, x)
            x = optax.apply_updates(x, updates)
        return x

    for mine, other in zip(*map(jax.tree.leaves, (after(ours), after(theirs))), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-15)
