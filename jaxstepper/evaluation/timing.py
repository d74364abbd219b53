"""How long runs take that nothing is measured on, alone or side by side with others."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.evaluation.problems import Problem
from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rollout import Limits, Rollout, is_running, run_all_on, start
from jaxstepper.stepping.rule import Rule

# A run is repeated for so many seconds, and the fastest counts: the others were late because the
# machine was busy with something else.
REPEATED_FOR, MOST_REPETITIONS = 0.3, 100
# Pairs of bodies in the first device call; a call costs some 50 us beside its work.
PAIRS_IN_FIRST_CALL = 10_000_000


def seconds_of(
    rule: Rule, problem: Problem, systems: Sequence[int], factor: float, max_steps: int
) -> float:
    """Wall-clock seconds of a run alone or of several side by side, from start to end.

    Args:
        rule: the rule at factor 1.
        problem: the systems.
        systems: which of them; more than one are a batch.
        factor: multiplies the steps of the rule.
        max_steps: a run ends after so many.
    """
    gravity = Gravity(problem.softening)
    rule = rule.scaled(jnp.asarray(factor, float))
    tables = jnp.asarray(problem.tables[np.asarray(systems)])
    limits = Limits(jnp.asarray(problem.end_time), jnp.asarray(max_steps, jnp.int32))
    first = max(1, PAIRS_IN_FIRST_CALL // (len(tables) * tables.shape[1] ** 2))

    def run(largest: int) -> None:
        rollouts = _begin(rule, gravity, tables, limits)

        def call(budget: int) -> tuple[int, bool]:
            nonlocal rollouts
            before = int(jnp.max(rollouts.steps))
            rollouts, goes_on = _run_some(rule, gravity, rollouts, limits, budget)
            return int(jnp.max(rollouts.steps)) - before, bool(goes_on) and largest > 0

        in_bounded_calls(call, min(first, largest), largest)

    run(0)
    return fastest(partial(run, max_steps))


def fastest(run: Callable[[], None]) -> float:
    """The seconds that a call takes; of a short one, the least of many."""
    seconds: list[float] = []
    while sum(seconds) < REPEATED_FOR and len(seconds) < MOST_REPETITIONS:
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@partial(jax.jit, static_argnames="gravity")
def _begin(rule: Rule, gravity: Gravity, tables: Float[Array, "B N C"], limits: Limits) -> Rollout:
    def one(table: Float[Array, "N C"]) -> Rollout:
        particles = from_table(table, gravity.acceleration, table.dtype)
        return start(rule, gravity, particles, limits.time)

    return jax.vmap(one)(tables)


@partial(jax.jit, static_argnames="gravity")
def _run_some(
    rule: Rule,
    gravity: Gravity,
    rollouts: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> tuple[Rollout, Bool[Array, ""]]:
    ends = jax.tree.map(lambda x: jnp.broadcast_to(x, rollouts.steps.shape), limits)
    rollouts = run_all_on(rule, gravity, rollouts, ends, num_steps)
    return rollouts, jnp.any(jax.vmap(is_running)(rollouts, ends))
