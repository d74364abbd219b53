"""Adam with one division a weight."""

import jax
import jax.numpy as jnp
import optax


def adam(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """`optax.adam` with its default moments, and with its state."""
    return optax.chain(_scale_by_adam(0.9, 0.999, 1e-8), optax.scale_by_learning_rate(rate))


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` in the form that Kingma and Ba (2015) end their section 2 with.

    m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) = rate m / (sqrt(v) + eps c) with
    c = sqrt(1 - b2^t) and rate = c / (1 - b1^t). An attempt on a single state spends most of its
    time here, and a tenth of it in the division by 1 - b2^t of every weight.
    """

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, gradient, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, gradient, state.nu)

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            c = jnp.sqrt(1 - b2 ** count.astype(m.dtype))
            return c / (1 - b1 ** count.astype(m.dtype)) * (m / (jnp.sqrt(v) + eps * c))

        return jax.tree.map(step, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)
