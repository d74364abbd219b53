"""What training is (`Plan`, fixed) and where it stands (`TrainState`, a pytree)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.machine.devices import split, whole
from jaxstepper.network.features import FeatureSpec, network_input, observe
from jaxstepper.network.history import History, empty_history, push
from jaxstepper.network.step_network import StepNetwork, Variables, init_variables
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.training.two_phase.gate import Gate

RUNNING, STUCK, NOT_FINITE, RETIRED = 0, 1, 2, 3
"""Result codes: all is well; a step exceeded the retrain cap; the network's dt is not finite; every
system has reached the end of its time."""


# The fields of a state, and of the progress of its epoch, that have one entry per system.
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


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that does not change while it runs; hashable.

    Attributes:
        network: the network.
        features: its inputs.
        gravity: what moves the bodies.
        optimizer: an optax transformation.
        gate: what is asked of a trial step.
        steps_per_epoch: steps that each system must have accepted in an epoch.
        max_retrain_steps: retrain iterations on one step before training gives up; 0: never.
        retrain_batch: how many systems are tried at once in phase 1.
        replay_steps: most iterations of phase 2 in an epoch.
        replay_batch_size: samples in an iteration of phase 2.
        min_replay_size: fewer samples than this skip phase 2.
        mesh: the devices that share the systems; None for one device.
    """

    network: StepNetwork
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    gate: Gate = field(default_factory=Gate)
    steps_per_epoch: int = 1
    max_retrain_steps: int = 1000
    retrain_batch: int = 256
    replay_steps: int = 1000
    replay_batch_size: int = 512
    min_replay_size: int = 2
    mesh: Mesh | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """B states to step from, with what a trial step needs of them.

    Attributes:
        particles: the states.
        energy: `[B]`, their total energies.
        inputs: `[B, F]`, the network's inputs there, each with its own history window.
    """

    particles: Particles
    energy: Float[Array, "*B"]
    inputs: Float[Array, "*B F"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tally:
    """Count, sum, smallest and largest of the numbers seen so far."""

    count: Int[Array, ""]
    total: Float[Array, ""]
    smallest: Float[Array, ""]
    largest: Float[Array, ""]

    def add(self, values: Array, where: Bool[Array, " B"]) -> "Tally":
        """With those `values` `[B]` that `where` selects."""
        values = values.astype(self.total.dtype)
        return Tally(
            self.count + jnp.sum(where, dtype=jnp.int32),
            self.total + jnp.sum(values, where=where),
            jnp.minimum(self.smallest, jnp.min(values, where=where, initial=jnp.inf)),
            jnp.maximum(self.largest, jnp.max(values, where=where, initial=-jnp.inf)),
        )

    @property
    def mean(self) -> Float[Array, ""]:
        """The mean; 0 of nothing."""
        return self.total / jnp.maximum(self.count, 1)

    def extreme(self, value: Array) -> Array:
        """`value` (the smallest or largest); 0 of nothing."""
        return jnp.where(self.count > 0, value, 0.0)


def empty_tally(dtype: Any) -> Tally:
    """A tally of nothing."""
    infinity = jnp.asarray(jnp.inf, dtype)
    return Tally(jnp.zeros((), jnp.int32), jnp.zeros((), dtype), infinity, -infinity)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EpochProgress:
    """Where an epoch stands, so that a device call may end, and a run resume, at any attempt.

    Attributes:
        step: `[]`, steps of phase 1 that every system has accepted.
        reached: `[B]` states after the current step, for the systems that have accepted it.
        waiting: `[B]`, which systems those are.
        failures: `[B]`, failed attempts on the current step.
        failure_loss: `[B]`, sum of the losses of those attempts.
        failure_error: `[B]`, sum of their energy errors.
        last_error: `[B]`, error of the last attempt on the current step.
        trajectory: `[T]` samples accepted in this epoch, T = steps_per_epoch * B.
        is_sample: `[T]`, which of them are there and not warm-up.
        warmup_discarded: `[]`, accepted steps that are no samples since their window is not full.
        retrain_iterations: tally over accepted steps.
        accepted_error: likewise.
        accepted_dt: likewise.
        retrain_loss: tally over accepted steps of the mean loss of their failed attempts.
        retrain_error: likewise of the energy errors.
        max_retrain_loss: `[]`, largest loss of any failed attempt.
        max_retrain_error: `[]`, likewise the energy error.
        replay_iterations: `[]`, iterations of phase 2.
        replay_done: `[]`, phase 2 has ended.
        replay_converged: `[]`, and all samples of its last batch passed.
        replay_skipped: `[]`, there were too few samples for it.
        replay_error: tally over its last batch.
        replay_pass_rate: `[]`, of its last batch.
    """

    step: Int[Array, ""]
    reached: Particles
    waiting: Bool[Array, " B"]
    failures: Int[Array, " B"]
    failure_loss: Float[Array, " B"]
    failure_error: Float[Array, " B"]
    last_error: Float[Array, " B"]
    trajectory: Sample
    is_sample: Bool[Array, " T"]
    warmup_discarded: Int[Array, ""]
    retrain_iterations: Tally
    accepted_error: Tally
    accepted_dt: Tally
    retrain_loss: Tally
    retrain_error: Tally
    max_retrain_loss: Float[Array, ""]
    max_retrain_error: Float[Array, ""]
    replay_iterations: Int[Array, ""]
    replay_done: Bool[Array, ""]
    replay_converged: Bool[Array, ""]
    replay_skipped: Bool[Array, ""]
    replay_error: Tally
    replay_pass_rate: Float[Array, ""]

    def replace(self, **changes: Any) -> "EpochProgress":
        """A copy with some fields changed."""
        return replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that training carries along; saving and restoring it changes nothing.

    Attributes:
        variables: of the network; only "params" are trained.
        optimizer_state: of `Plan.optimizer`, for the params.
        key: raw random key.
        systems: the B systems at their current states.
        history: `[B]` windows of the states before those.
        accepted: `[B]`, steps accepted since the start of the path.
        end_time: `[B]`, when each system retires; infinity for never.
        epoch: `[]`, epochs completed.
        converged: `[]`, those of them whose phase 2 converged.
        progress: of the epoch under way.
        status: `[]`, a result code; the first failure stays.
    """

    variables: Variables
    optimizer_state: optax.OptState
    key: Array
    systems: Sample
    history: History
    accepted: Int[Array, " B"]
    end_time: Float[Array, " B"]
    epoch: Int[Array, ""]
    converged: Int[Array, ""]
    progress: EpochProgress
    status: Int[Array, ""]

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with some fields changed."""
        return replace(self, **changes)

    def split_key(self) -> tuple["TrainState", Array]:
        """The state with its key advanced, and a fresh key."""
        key, fresh = jax.random.split(self.key)
        return self.replace(key=key), fresh


def init_train_state(
    plan: Plan,
    tables: ArrayLike,
    key: Array,
    variables: Variables | None = None,
    end_time: ArrayLike = np.inf,
) -> TrainState:
    """The state before the first epoch.

    Args:
        plan: what is trained.
        tables: initial conditions `[B, N, 1 + 2 D]`.
        key: raw random key.
        variables: of a network to go on from; fresh ones otherwise.
        end_time: `[]` or `[B]`, when systems retire.
    """
    key, fresh = jax.random.split(key)
    if variables is None:
        variables = init_variables(plan.network, fresh, plan.features.size)
    systems, history = start_systems(plan, tables)
    count = systems.energy.shape[0]
    state = TrainState(
        variables=variables,
        optimizer_state=plan.optimizer.init(variables["params"]),
        key=key,
        systems=systems,
        history=history,
        accepted=jnp.zeros((count,), jnp.int32),
        end_time=jnp.broadcast_to(jnp.asarray(end_time, systems.energy.dtype), (count,)),
        epoch=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), jnp.int32),
        progress=new_progress(plan, systems),
        status=jnp.asarray(RUNNING, jnp.int32),
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

    A state that leaves a compiled program must be placed: as it enters the next one, that is
    compiled once, and can reuse its memory.
    """
    mesh, progress = plan.mesh, state.progress
    split_fields = {name: split(mesh, getattr(state, name)) for name in SYSTEM_FIELDS}
    split_progress = {name: split(mesh, getattr(progress, name)) for name in SYSTEM_PROGRESS}
    state = whole(mesh, state).replace(**split_fields)
    return state.replace(progress=state.progress.replace(**split_progress))


def apply_if(
    condition: Bool[Array, ""], change: Callable[[TrainState], TrainState], state: TrainState
) -> TrainState:
    """`change(state)` if the condition holds; `change` may not use the network or its optimiser.

    They stay out of the conditional, which would copy them: some 30 MB for the default network.
    """
    rest = state.replace(variables={}, optimizer_state=())
    rest = lax.cond(condition, change, lambda same: same, rest)
    return rest.replace(variables=state.variables, optimizer_state=state.optimizer_state)


def start_systems(plan: Plan, tables: ArrayLike) -> tuple[Sample, History]:
    """Systems at the start of their paths, with empty windows, from `[B, N, 1 + 2 D]`."""
    dtype = plan.network.dtype
    tables = jnp.asarray(tables, dtype)
    particles = jax.vmap(lambda t: from_table(t, plan.gravity.acceleration, dtype))(tables)
    history = jax.vmap(lambda p: empty_history(plan.features.history_len, p))(particles)
    return make_sample(plan, particles, history), history


def make_sample(plan: Plan, particles: Particles, history: History) -> Sample:
    """States `[B]` with their energies and network inputs."""

    def of_system(p: Particles, h: History) -> Sample:
        observed = observe(plan.features, plan.gravity, p)
        inputs = network_input(plan.features, h, observed)
        return Sample(p, total_energy(p, plan.gravity), inputs)

    return jax.vmap(of_system)(particles, history)


def remember(plan: Plan, history: History, particles: Particles) -> History:
    """Windows `[B]` with the states `[B]` pushed."""

    def of_system(h: History, p: Particles) -> History:
        return push(h, observe(plan.features, plan.gravity, p))

    return jax.vmap(of_system)(history, particles)


def new_progress(plan: Plan, systems: Sample) -> EpochProgress:
    """The progress of an epoch that has not begun."""
    count, dtype = systems.energy.shape[0], systems.energy.dtype
    length = plan.steps_per_epoch * count

    def room(x: Array) -> Array:
        return jnp.zeros((length, *x.shape[1:]), x.dtype)

    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    return EpochProgress(
        step=zero,
        reached=systems.particles,
        waiting=jnp.zeros((count,), bool),
        failures=jnp.zeros((count,), jnp.int32),
        failure_loss=jnp.zeros((count,), dtype),
        failure_error=jnp.zeros((count,), dtype),
        last_error=jnp.zeros((count,), dtype),
        trajectory=jax.tree.map(room, systems),
        is_sample=jnp.zeros((length,), bool),
        warmup_discarded=zero,
        retrain_iterations=empty_tally(dtype),
        accepted_error=empty_tally(dtype),
        accepted_dt=empty_tally(dtype),
        retrain_loss=empty_tally(dtype),
        retrain_error=empty_tally(dtype),
        max_retrain_loss=jnp.zeros((), dtype),
        max_retrain_error=jnp.zeros((), dtype),
        replay_iterations=zero,
        replay_done=no,
        replay_converged=no,
        replay_skipped=no,
        replay_error=empty_tally(dtype),
        replay_pass_rate=jnp.zeros((), dtype),
    )
