"""The state of training on windows: a pytree."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.network.step_network import Variables, init_variables
from jaxstepper.training.objective import State, fresh
from jaxstepper.training.windows.draws import Pool, make_pool
from jaxstepper.training.windows.plan import WindowPlan


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowProgress:
    """The progress of an epoch of I iterations of B windows; calls may end after any of them.

    Attributes:
        iteration: `[]`, iterations done.
        loss: `[I, B]`.
        log_work: `[I, B]`, logarithm of the work relative to the free-fall rule's.
        log_error: `[I, B]`, logarithm of the largest energy error relative to the tolerance.
        covered: `[I, B]`, share of each window that its steps were enough for.
        good: `[I, B]`, which gradients were finite.
    """

    iteration: Int[Array, ""]
    loss: Float[Array, "I B"]
    log_work: Float[Array, "I B"]
    log_error: Float[Array, "I B"]
    covered: Float[Array, "I B"]
    good: Bool[Array, "I B"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowState(State):
    """What training on windows adds to a `State`.

    The draws of an iteration depend only on the key and on the number of the iteration.

    Attributes:
        pool: the systems that windows start from.
        progress: that of the current epoch.
    """

    pool: Pool
    progress: WindowProgress


def new_progress(plan: WindowPlan) -> WindowProgress:
    """The progress of an epoch that has not begun."""
    empty = jnp.zeros((plan.iterations, plan.batch), plan.network.dtype)
    good = jnp.zeros((plan.iterations, plan.batch), bool)
    return WindowProgress(jnp.zeros((), jnp.int32), empty, empty, empty, empty, good)


def init_window_state(
    plan: WindowPlan,
    tables: ArrayLike,
    span: ArrayLike,
    key: Array,
    variables: Variables | None = None,
) -> WindowState:
    """The state before the first epoch, of systems `[M, N, 1 + 2 D]` with time scales `[M]`."""
    key, start = jax.random.split(key)
    if variables is None:
        variables = init_variables(plan.network, start, plan.features.size)
    state = WindowState(
        **fresh(plan.optimizer, variables, key),
        pool=make_pool(plan, tables, span),
        progress=new_progress(plan),
    )
    # A donated state must not hold one buffer twice.
    return jax.tree.map(jnp.copy, state)
