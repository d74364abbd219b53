"""The state of two-phase training: a pytree."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxstepper.machine.devices import split, whole
from jaxstepper.network.history import History
from jaxstepper.network.step_network import Variables, init_variables
from jaxstepper.training.objective import State, fresh
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.progress import EpochProgress, new_progress
from jaxstepper.training.two_phase.samples import Sample, start_systems

# The fields of a state, and of its progress, that the devices share.
SYSTEM_FIELDS = ("systems", "history", "accepted", "end_time")
SYSTEM_PROGRESS = (
    "reached",
    "waiting",
    "failures",
    "failure_loss",
    "failure_error",
    "last_error",
    "trajectory",
    "is_sample",
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState(State):
    """What two-phase training adds to a `State`.

    Attributes:
        systems: the B systems at their current states.
        history: `[B]` windows of the states before those.
        accepted: `[B]`, steps accepted since the start of the path.
        end_time: `[B]`, when each system retires; infinity for never.
        converged: `[]`, epochs whose phase 2 converged.
        progress: of the epoch under way.
    """

    systems: Sample
    history: History
    accepted: Int[Array, " B"]
    end_time: Float[Array, " B"]
    converged: Int[Array, ""]
    progress: EpochProgress

    def split_key(self) -> tuple["TrainState", Array]:
        """The state with its key advanced, and a fresh key."""
        key, new = jax.random.split(self.key)
        return self.replace(key=key), new


def init_train_state(
    plan: Plan,
    tables: ArrayLike,
    key: Array,
    variables: Variables | None = None,
    end_time: ArrayLike = np.inf,
) -> TrainState:
    """The state before the first epoch, of systems `[B, N, 1 + 2 D]` that retire at `end_time`."""
    key, start = jax.random.split(key)
    if variables is None:
        variables = init_variables(plan.network, start, plan.features.size)
    systems, history = start_systems(plan, tables)
    count = systems.energy.shape[0]
    state = TrainState(
        **fresh(plan.optimizer, variables, key),
        systems=systems,
        history=history,
        accepted=jnp.zeros((count,), jnp.int32),
        end_time=jnp.broadcast_to(jnp.asarray(end_time, systems.energy.dtype), (count,)),
        converged=jnp.zeros((), jnp.int32),
        progress=new_progress(plan, systems),
    )
    # A donated state must not hold one buffer twice.
    return jax.tree.map(jnp.copy, state)


def restart(plan: Plan, state: TrainState, tables: ArrayLike, end_time: ArrayLike) -> TrainState:
    """The state, between epochs, with its systems at the start of new paths `[B, N, 1 + 2 D]`."""
    systems, history = start_systems(plan, tables)
    state = state.replace(
        systems=systems,
        history=history,
        accepted=jnp.zeros_like(state.accepted),
        end_time=jnp.asarray(end_time, state.end_time.dtype),
        progress=new_progress(plan, systems),
    )
    return place(plan, state)


def place(plan: Plan, state: TrainState) -> TrainState:
    """Under `jit`: the state with its systems split among the plan's devices, and the rest whole.

    A state must be placed before it leaves a compiled program, so that the next one is compiled
    once and can reuse its memory.
    """
    mesh, progress = plan.mesh, state.progress
    split_fields = {name: split(mesh, getattr(state, name)) for name in SYSTEM_FIELDS}
    split_progress = {name: split(mesh, getattr(progress, name)) for name in SYSTEM_PROGRESS}
    state = whole(mesh, state).replace(**split_fields)
    return state.replace(progress=state.progress.replace(**split_progress))
