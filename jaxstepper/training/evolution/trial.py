"""What a criterion or a rule is worth: its work and energy error in rollouts of many systems."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.criteria import Criterion
from jaxstepper.stepping.individual import start, turn
from jaxstepper.stepping.individual_state import (
    LOWER_BITS,
    Individual,
    as_particles,
    is_running,
)
from jaxstepper.stepping.rollout import Limits, has_failed
from jaxstepper.stepping.rollout import start as start_shared
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.status import ENDED
from jaxstepper.stepping.watch import WRONG_ABOVE, Watch, look, watch_of, watch_on

# Bodies meet so often in a rollout; no step is longer than the time between.
MEETINGS = 8
# A rollout that needs so many evaluations of all bodies has failed.
MOST_EVALUATIONS = 2000
# Shared steps of a rollout; if they do not fill it, their number is extrapolated to all of it.
SHARED_STEPS = 1000
# The work of Aarseth's criterion falls as this power of the error (regression, 64 bodies).
POWER = 0.21
# An error cannot be told from rounding below.
LEAST_ERROR = 1e-14


class Trial(NamedTuple):
    """The outcome of a rollout, or of many.

    Attributes:
        log_work: log of the evaluations of all bodies, pairs / N^2.
        log_error: log of the largest relative energy error where the bodies met.
        failed: 1 if the rollout did not come to its end, or went wrong.
    """

    log_work: Float[Array, "*B"]
    log_error: Float[Array, "*B"]
    failed: Float[Array, "*B"]

    @property
    def loss(self) -> Float[Array, "*B"]:
        """log of the work at equal error."""
        return self.log_work + POWER * self.log_error


def try_out(
    criterion: Criterion, gravity: Gravity, table: Float[Array, "N C"], time: float
) -> Trial:
    """A rollout over a time, of bodies `[N, 1 + 2 D]`."""
    particles = from_table(table, gravity.acceleration, table.dtype)
    count = table.shape[0]
    most = int(MOST_EVALUATIONS * count)

    def goes_on(carry: tuple[Individual, Watch]) -> Array:
        state, watch = carry
        return is_running(state) & (_evaluated(state) < most) & (watch.worst <= WRONG_ABOVE)

    def body(carry: tuple[Individual, Watch]) -> tuple[Individual, Watch]:
        state, watch = carry
        new = turn(criterion, gravity, state)

        def looked() -> Watch:
            return look(gravity, watch, as_particles(new, new.motion, new.block), new.steps)

        return new, lax.cond(new.block > state.block, looked, lambda: watch)

    begin = start(criterion, gravity, particles, particles.time + time, time / MEETINGS)
    state, watch = lax.while_loop(goes_on, body, (begin, watch_of(gravity, particles)))
    failed = (state.status != ENDED) | ~(watch.worst <= WRONG_ABOVE)
    # As if it had needed all the work, and had got nothing right.
    work = jnp.where(failed, most, _evaluated(state)) / count
    error = jnp.where(failed, WRONG_ABOVE, jnp.maximum(watch.worst, LEAST_ERROR))
    return Trial(jnp.log(work), jnp.log(error), failed.astype(table.dtype))


def try_out_shared(rule: Rule, gravity: Gravity, table: Float[Array, "N C"], time: float) -> Trial:
    """A rollout of a rule over a time, of bodies `[N, 1 + 2 D]`."""
    particles = from_table(table, gravity.acceleration, table.dtype)
    limits = Limits(jnp.asarray(time, table.dtype), SHARED_STEPS)
    begin, watch = start_shared(rule, gravity, particles), watch_of(gravity, particles)
    end, watch = watch_on(rule, gravity, begin, watch, limits, SHARED_STEPS)
    failed = has_failed(end.status) | ~(watch.worst <= WRONG_ABOVE)
    evaluations = 1 + rule.scheme.evaluations_at_start + end.steps * rule.scheme.evaluations
    work = jnp.where(failed, MOST_EVALUATIONS, evaluations * time / end.particles.time)
    error = jnp.where(failed, WRONG_ABOVE, jnp.maximum(watch.worst, LEAST_ERROR))
    return Trial(jnp.log(work), jnp.log(error), failed.astype(table.dtype))


def try_shared_on_all(
    rules: Rule, gravity: Gravity, tables: Float[Array, "B N C"], time: float
) -> Trial:
    """The mean outcome of E rules, stacked, in rollouts of B systems each, all side by side."""

    def on_all(rule: Rule) -> Trial:
        return jax.vmap(lambda table: try_out_shared(rule, gravity, table, time))(tables)

    return jax.tree.map(jnp.mean, jax.vmap(on_all)(rules))


def try_on_all(
    criteria: Criterion, gravity: Gravity, tables: Float[Array, "B N C"], time: float
) -> Trial:
    """The mean outcome of E criteria, stacked, in rollouts of B systems each.

    A CPU takes the rollouts one after the other. On an accelerator they share every turn.
    """
    one = partial(try_out, gravity=gravity, time=time)

    def on_all(criterion: Criterion) -> Trial:
        def on_one(table: Array) -> Trial:
            return one(criterion, table=table)

        return lax.map(on_one, tables) if on_cpu else jax.vmap(on_one)(tables)

    on_cpu = jax.default_backend() == "cpu"
    trials = lax.map(on_all, criteria) if on_cpu else jax.vmap(on_all)(criteria)
    return jax.tree.map(jnp.mean, trials)


def _evaluated(state: Individual) -> Float[Array, ""]:
    upper, lower = state.evaluated.astype(state.begin.dtype)
    return upper * 2.0**LOWER_BITS + lower
