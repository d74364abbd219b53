"""An epoch of training on windows, iteration by iteration."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.network.learned import learned_rule, root
from jaxstepper.training.status import NOT_FINITE, RUNNING
from jaxstepper.training.windows.draws import Draw, draw_windows, start_of, teacher
from jaxstepper.training.windows.loss import as_trained, imitation_loss, run_window, window_loss
from jaxstepper.training.windows.plan import WindowPlan
from jaxstepper.training.windows.state import WindowState, new_progress

# The gradient of each window is scaled down to this norm.
MOST_GRADIENT = 2.0


class WindowMetrics(NamedTuple):
    """The metrics of an epoch; every field is `[]`.

    Attributes:
        epoch: its number, from 0.
        loss: the mean over iterations.
        relative_work: steps at equal error, divided by those of the symmetrised free-fall rule; the
            geometric mean over windows.
        error_ratio: largest energy error of a window, divided by its tolerance; geometric mean.
        covered: mean share of a window that its steps were enough for.
        skipped: number of windows that were left out because their gradient was not finite.
    """

    epoch: Array
    loss: Array
    relative_work: Array
    error_ratio: Array
    covered: Array
    skipped: Array


def iterate(
    plan: WindowPlan, state: WindowState, budget: Array
) -> tuple[WindowState, Array, Bool[Array, ""]]:
    """Iterations of the current epoch until it ends or the budget of iterations is used up.

    Returns the state, the rest of the budget, and whether the epoch has ended.
    """
    imitating = state.epoch < plan.imitation
    carry = (state, budget)
    for imitate in (True, False) if plan.imitation else (False,):
        # Two loops, one of which is empty. A conditional within one loop would run both branches
        # for several seeds side by side.

        def working(carry: tuple[WindowState, Array], imitate: bool = imitate) -> Bool[Array, ""]:
            state, budget = carry
            unfinished = state.progress.iteration < plan.iterations
            return unfinished & (budget > 0) & (state.status == RUNNING) & (imitating == imitate)

        def turn(
            carry: tuple[WindowState, Array], imitate: bool = imitate
        ) -> tuple[WindowState, Array]:
            state, budget = carry
            return _iteration(plan, imitate, state), budget - 1

        carry = lax.while_loop(working, turn, carry)
    state, budget = carry
    ended = (state.progress.iteration == plan.iterations) & (state.status == RUNNING)
    lost = ended & jnp.all(~state.progress.good)
    status = jnp.where(lost, NOT_FINITE, state.status).astype(jnp.int32)
    return state.replace(status=status), budget, ended


def _iteration(plan: WindowPlan, imitate: bool, state: WindowState) -> WindowState:
    """One optimiser step on the mean loss of a batch of windows."""
    params, constants = state.variables["params"], state.variables["constants"]
    progress = state.progress
    number = state.epoch * plan.iterations + progress.iteration
    draws = draw_windows(plan, state.pool, jax.random.fold_in(state.key, number))
    one = jax.value_and_grad(partial(loss_of_draw, plan, imitate), has_aux=True)
    (losses, about), gradients = jax.vmap(one, (None, None, 0))(params, constants, draws)
    gradient, good = _mean_gradient(losses, gradients)
    update, optimizer_state = plan.optimizer.update(gradient, state.optimizer_state, params)
    new = optax.apply_updates(params, update), optimizer_state
    before = (params, state.optimizer_state)
    params, optimizer_state = jax.tree.map(lambda x, y: jnp.where(jnp.any(good), x, y), new, before)
    names = ("loss", "log_work", "log_error", "covered", "good")
    seen = {
        name: getattr(progress, name).at[progress.iteration].set(values)
        for name, values in zip(names, (losses, *about, good), strict=True)
    }
    return state.replace(
        variables={**state.variables, "params": params},
        optimizer_state=optimizer_state,
        progress=replace(progress, iteration=progress.iteration + 1, **seen),
    )


def epoch_metrics(state: WindowState) -> WindowMetrics:
    """The metrics of the epoch that has just ended."""
    p = state.progress
    loss, work, off, covered = (
        _mean_of(values, p.good) for values in (p.loss, p.log_work, p.log_error, p.covered)
    )
    return WindowMetrics(
        epoch=state.epoch,
        loss=loss,
        relative_work=jnp.exp(work),
        error_ratio=jnp.exp(off),
        covered=covered,
        skipped=jnp.sum(~p.good),
    )


def next_epoch(plan: WindowPlan, state: WindowState) -> WindowState:
    """The state at the start of the next epoch."""
    return state.replace(epoch=state.epoch + 1, progress=new_progress(plan))


def loss_of_draw(
    plan: WindowPlan, imitate: bool, params: Any, constants: Any, draw: Draw
) -> tuple[Float[Array, ""], tuple[Array, Array, Array]]:
    """The loss of one window, and its log relative work, log error ratio and coverage.

    The last three are 0 while the network learns to imitate the free-fall rule.
    """
    variables = {"params": params, "constants": constants}
    gravity, scheme, order = plan.gravity, plan.scheme, plan.scheme.order
    rule = learned_rule(plan.network, plan.features, gravity, variables, draw.tolerance, scheme)
    start = start_of(plan, draw.table)
    if imitate:
        guide = teacher(plan, root(draw.tolerance, order))
        loss = imitation_loss(rule, guide, gravity, start, draw.time, plan.steps)
        none = jnp.zeros_like(loss)
        return loss, (none, none, none)
    window = run_window(as_trained(rule), gravity, start, draw.time, plan.steps)
    reference = jnp.log(draw.spans) + draw.work
    relative_work = window.log_steps + window.log_error / order - reference
    off = window.log_error - jnp.log(draw.tolerance)
    loss = window_loss(window, draw.tolerance, order) - reference
    return loss, (relative_work, off, window.covered)


def _mean_gradient(losses: Array, gradients: Any) -> tuple[Any, Array]:
    """The mean of the gradients `[B]`, each scaled down to `MOST_GRADIENT`; and which are finite.

    So a window that goes wrong moves the network no more than any other.
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
