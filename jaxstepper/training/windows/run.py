"""Training by the loss of whole windows of steps: the state, an epoch, and the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned import learned_rule
from jaxstepper.network.step_network import StepNetwork, Variables, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.stepping.literature import free_fall
from jaxstepper.training.two_phase.state import NOT_FINITE, RUNNING
from jaxstepper.training.windows.loss import as_trained, imitation_loss, run_window, window_loss

# The gradient of each window is scaled down to this norm.
MOST_GRADIENT = 2.0
# A window is chosen for this share of the steps that there are, as free fall would need them.
STEPS_EXPECTED = 0.8
# No window is shorter, in spans; the tolerance is raised instead. Half an orbit from an apsis shows
# a reversible rule all there is.
SHORTEST = 0.6
# The free-fall rule that the learned one is measured against, and the steps to do so.
REFERENCE_ETA, REFERENCE_STEPS = 0.03, 2048
REFERENCES_AT_ONCE = 128


@dataclass(frozen=True)
class WindowPlan:
    """Everything about such a training run that does not change while it runs; hashable.

    Attributes:
        network: the network.
        features: its inputs.
        gravity: what moves the bodies.
        optimizer: an optax transformation.
        iterations: optimiser steps in an epoch.
        batch: windows in an iteration.
        steps: most steps of a window.
        spans: longest window, in spans of its system.
        tolerances: smallest and largest that are drawn; equal for a network that sees none.
        unit_spread: windows are in units of mass and length up to this factor larger or smaller.
        imitation: epochs at the start in which the network learns the free-fall rule's dt.
    """

    network: StepNetwork
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    iterations: int = 20
    batch: int = 32
    steps: int = 1024
    spans: float = 12.0
    tolerances: tuple[float, float] = (1e-3, 3e-2)
    unit_spread: float = 1.0
    imitation: int = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pool:
    """M systems that windows start from.

    Attributes:
        tables: `[M, N, 1 + 2 D]`, initial conditions.
        span: `[M]`, a time of each system, such as its period.
        work: `[M]`, log(steps a span) + log(error) / 2 of the symmetrised free-fall rule.
    """

    tables: Float[Array, "M N C"]
    span: Float[Array, " M"]
    work: Float[Array, " M"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowState:
    """All that training carries along; saving and restoring it changes nothing.

    Attributes:
        variables: of the network; only "params" are trained.
        optimizer_state: of `WindowPlan.optimizer`, for the params.
        key: raw random key; an iteration's draws depend on it and on its number alone.
        epoch: `[]`, epochs completed.
        pool: what windows start from.
        status: `[]`, a result code; the first failure stays.
    """

    variables: Variables
    optimizer_state: optax.OptState
    key: Array
    epoch: Int[Array, ""]
    pool: Pool
    status: Int[Array, ""]

    def replace(self, **changes: Any) -> "WindowState":
        """A copy with some fields changed."""
        return replace(self, **changes)


class WindowMetrics(NamedTuple):
    """What an epoch came to; every field is `[]`.

    Attributes:
        epoch: its number, from 0.
        loss: mean over iterations.
        relative_work: steps at equal error, over those of the symmetrised free-fall rule; the
            geometric mean over windows.
        error_ratio: largest energy error of a window over its tolerance; geometric mean.
        covered: mean share of the windows that the steps were enough for.
        skipped: windows whose gradient was not finite, which changed nothing.
    """

    epoch: Array
    loss: Array
    relative_work: Array
    error_ratio: Array
    covered: Array
    skipped: Array


def init_window_state(
    plan: WindowPlan,
    tables: ArrayLike,
    span: ArrayLike,
    key: Array,
    variables: Variables | None = None,
) -> WindowState:
    """The state before the first epoch.

    Args:
        plan: what is trained.
        tables: initial conditions `[M, N, 1 + 2 D]`.
        span: `[M]`, a time of each system.
        key: raw random key.
        variables: of a network to go on from; fresh ones otherwise.
    """
    key, fresh = jax.random.split(key)
    if variables is None:
        variables = init_variables(plan.network, fresh, plan.features.size)
    dtype = plan.network.dtype
    tables, span = jnp.asarray(tables, dtype), jnp.asarray(span, dtype)
    state = WindowState(
        variables=variables,
        optimizer_state=plan.optimizer.init(variables["params"]),
        key=key,
        epoch=jnp.zeros((), jnp.int32),
        pool=Pool(tables, span, _reference_work(plan, tables, span)),
        status=jnp.asarray(RUNNING, jnp.int32),
    )
    # A donated state must not hold one buffer twice.
    return jax.tree.map(jnp.copy, state)


def _reference_work(plan: WindowPlan, tables: Array, span: Array) -> Float[Array, " M"]:
    rule = as_trained(free_fall(REFERENCE_ETA, plan.gravity.softening))

    def of_system(system: tuple[Array, Array]) -> Array:
        table, span = system
        window = run_window(rule, plan.gravity, _start(plan, table), span, REFERENCE_STEPS)
        return window.log_steps + 0.5 * window.log_error

    return lax.map(of_system, (tables, span), batch_size=REFERENCES_AT_ONCE)


def _start(plan: WindowPlan, table: Array) -> Particles:
    return from_table(table, plan.gravity.acceleration, plan.network.dtype)


class Draw(NamedTuple):
    """A window to be trained on: where it starts, how long it is and what error to aim for."""

    table: Float[Array, "*B N C"]
    time: Float[Array, "*B"]
    spans: Float[Array, "*B"]
    work: Float[Array, "*B"]
    tolerance: Float[Array, "*B"]


def draw_windows(plan: WindowPlan, pool: Pool, key: Array) -> Draw:
    """The windows `[B]` of an iteration, a function of the pool and the key."""
    draw_systems, draw_tolerances, draw_units = jax.random.split(key, 3)
    chosen = jax.random.randint(draw_systems, (plan.batch,), 0, pool.span.shape[0])
    low, high = np.log(plan.tolerances)
    share = jax.random.uniform(draw_tolerances, (plan.batch,), plan.network.dtype)
    tolerance = jnp.exp(low + share * (high - low))
    work, enough = pool.work[chosen], STEPS_EXPECTED * plan.steps
    tolerance = jnp.maximum(tolerance, (SHORTEST * jnp.exp(work) / enough) ** 2)
    spans = jnp.minimum(plan.spans, enough * jnp.sqrt(tolerance) / jnp.exp(work))
    exponents = jax.random.uniform(draw_units, (2, plan.batch), plan.network.dtype, -1.0, 1.0)
    mass, length = plan.unit_spread**exponents
    tables = jax.vmap(_in_units)(pool.tables[chosen], mass, length)
    time = spans * pool.span[chosen] * jnp.sqrt(length**3 / mass)
    return Draw(tables, time, spans, work, tolerance)


def _in_units(table: Array, mass: Array, length: Array) -> Array:
    """The table `[N, 1 + 2 D]` of a system with masses and lengths times these factors."""
    dim = (table.shape[1] - 1) // 2
    m, x, v = jnp.split(table, [1, 1 + dim], axis=1)
    return jnp.concatenate([mass * m, length * x, jnp.sqrt(mass / length) * v], axis=1)


def loss_of_draw(
    plan: WindowPlan, imitate: bool, params: Any, constants: Any, draw: Draw
) -> tuple[Float[Array, ""], tuple[Array, Array, Array]]:
    """Loss of one window, and its log relative work, log error ratio and coverage.

    The last three are 0 while the network learns to imitate the free-fall rule.
    """
    variables = {"params": params, "constants": constants}
    rule = learned_rule(plan.network, plan.features, plan.gravity, variables, draw.tolerance)
    start = _start(plan, draw.table)
    if imitate:
        teacher = free_fall(jnp.sqrt(draw.tolerance), plan.gravity.softening)
        loss = imitation_loss(rule, teacher, plan.gravity, start, draw.time, plan.steps)
        none = jnp.zeros_like(loss)
        return loss, (none, none, none)
    window = run_window(as_trained(rule), plan.gravity, start, draw.time, plan.steps)
    reference = jnp.log(draw.spans) + draw.work
    relative_work = window.log_steps + 0.5 * window.log_error - reference
    off = window.log_error - jnp.log(draw.tolerance)
    loss = window_loss(window, draw.tolerance) - reference
    return loss, (relative_work, off, window.covered)


def run_epoch(
    plan: WindowPlan, state: WindowState, imitate: bool = False
) -> tuple[WindowState, WindowMetrics]:
    """An epoch on the device, in one call."""
    constants = state.variables["constants"]

    def iteration(carry: tuple[Any, Any], number: Array) -> tuple[Any, Any]:
        params, optimizer_state = carry
        key = jax.random.fold_in(state.key, number)
        draws = draw_windows(plan, state.pool, key)
        one = jax.value_and_grad(partial(loss_of_draw, plan, imitate), has_aux=True)
        (losses, about), gradients = jax.vmap(one, (None, None, 0))(params, constants, draws)
        gradient, good = _mean_gradient(losses, gradients)
        update, new_state = plan.optimizer.update(gradient, optimizer_state, params)
        new = optax.apply_updates(params, update), new_state
        carry = jax.tree.map(lambda x, y: jnp.where(jnp.any(good), x, y), new, carry)
        return carry, (losses, *about, good)

    before = (state.variables["params"], state.optimizer_state)
    numbers = state.epoch * plan.iterations + jnp.arange(plan.iterations)
    (params, optimizer_state), seen = lax.scan(iteration, before, numbers)
    *values, good = seen
    loss, work, off, covered = (_mean_of(value, good) for value in values)
    metrics = WindowMetrics(
        epoch=state.epoch,
        loss=loss,
        relative_work=jnp.exp(work),
        error_ratio=jnp.exp(off),
        covered=covered,
        skipped=jnp.sum(~good),
    )
    lost = jnp.all(~good)
    status = jnp.where((state.status == RUNNING) & lost, NOT_FINITE, state.status)
    state = state.replace(
        variables={**state.variables, "params": params},
        optimizer_state=optimizer_state,
        epoch=state.epoch + 1,
        status=status.astype(jnp.int32),
    )
    return state, metrics


train_epoch = jax.jit(run_epoch, static_argnames=("plan", "imitate"), donate_argnames="state")
"""`run_epoch`, compiled; the state given is donated."""


def _mean_gradient(losses: Array, gradients: Any) -> tuple[Any, Array]:
    """The mean of the gradients `[B]`, each scaled down to `MOST_GRADIENT`, and which were finite.

    One window that goes wrong, whose gradient may be of any size, then moves the network no more
    than any other.
    """
    norms = jax.vmap(optax.tree.norm)(gradients)
    good = jnp.isfinite(norms) & jnp.isfinite(losses)
    weights = jnp.where(good, jnp.minimum(1.0, MOST_GRADIENT / norms), 0.0) / losses.size

    def mean(gradient: Array) -> Array:
        flat = jnp.where(good[:, None], gradient.reshape(losses.size, -1), 0.0)
        return (weights @ flat).reshape(gradient.shape[1:])

    return jax.tree.map(mean, gradients), good


def _mean_of(values: Array, where: Array) -> Array:
    return jnp.sum(values, where=where) / jnp.maximum(jnp.sum(where), 1)


class WindowResult(NamedTuple):
    """What such a training run came to.

    Attributes:
        epochs: completed in all, those before a restart included.
        total_time: seconds of this call.
        metrics: of the last epoch, as plain numbers; empty if none ended.
        state: after it.
        stopped: why it ended before the last epoch: "", "interrupted" or "not finite".
    """

    epochs: int
    total_time: float
    metrics: dict[str, Any]
    state: WindowState
    stopped: str


def run_window_training(
    plan: WindowPlan,
    state: WindowState,
    epochs: int,
    *,
    metrics: dict[str, Any] | None = None,
    pause_after: Callable[[int], bool] = lambda epoch: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_pause: Callable[[WindowState, dict[str, Any]], WindowState] = lambda state, metrics: state,
    on_call: Callable[[WindowState, dict[str, Any]], None] = lambda state, metrics: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> WindowResult:
    """Trains until `epochs` epochs are complete; arguments are `run_two_phase_training`'s.

    An epoch is one device call, so that every state is one between two epochs.
    """
    began = time.perf_counter()
    metrics = {} if metrics is None else metrics
    done, stopped = int(state.epoch), ""
    while done < epochs and not stopped:
        if interrupted():
            stopped = "interrupted"
            break
        call_began = time.perf_counter()
        state, values = train_epoch(plan, state, done < plan.imitation)
        metrics = {name: value.item() for name, value in jax.device_get(values)._asdict().items()}
        metrics["epoch_time"] = time.perf_counter() - call_began
        done += 1
        on_epoch(metrics)
        if int(state.status) == NOT_FINITE:
            stopped = "not finite"
            break
        if done == epochs or pause_after(done - 1):
            state = on_pause(state, metrics)
        on_call(state, metrics)
    return WindowResult(done, time.perf_counter() - began, metrics, state, stopped)
