"""How long a run takes when it runs alone: no other beside it, and nothing measured on its way."""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.evaluation.problems import Problem
from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rollout import Limits, Rollout, is_running, run_on, start
from jaxstepper.stepping.rule import Rule

# Shorter runs are repeated, and the fastest counts: others are late because the machine was busy.
REPEATED_BELOW, REPETITIONS = 0.5, 5
# Pairs of bodies in the first device call; a call costs some 50 us beside its work.
PAIRS_IN_FIRST_CALL = 10_000_000


def seconds_alone(
    rule: Rule, problem: Problem, system: int, factor: float, max_steps: int
) -> float:
    """Wall-clock seconds of a run from start to end, compiled before.

    Args:
        rule: the rule at factor 1.
        problem: the systems.
        system: which of them.
        factor: multiplies the steps of the rule.
        max_steps: a run ends after so many.
    """
    gravity = Gravity(problem.softening)
    rule = rule.scaled(jnp.asarray(factor, float))
    table = jnp.asarray(problem.tables[system])
    limits = Limits(jnp.asarray(problem.end_time), jnp.asarray(max_steps, jnp.int32))
    first = max(1, PAIRS_IN_FIRST_CALL // table.shape[0] ** 2)

    def run(largest: int) -> None:
        rollout = _begin(rule, gravity, table, limits)

        def call(budget: int) -> tuple[int, bool]:
            nonlocal rollout
            before = int(rollout.steps)
            rollout, goes_on = _run_some(rule, gravity, rollout, limits, budget)
            return int(rollout.steps) - before, bool(goes_on) and largest > 0

        in_bounded_calls(call, min(first, largest), largest)

    run(0)
    return fastest(partial(run, max_steps))


def fastest(run: Callable[[], None]) -> float:
    """The seconds that a call takes; of a short one, the least of several."""
    seconds: list[float] = []
    while not seconds or (min(seconds) < REPEATED_BELOW and len(seconds) < REPETITIONS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@partial(jax.jit, static_argnames="gravity")
def _begin(rule: Rule, gravity: Gravity, table: Float[Array, "N C"], limits: Limits) -> Rollout:
    particles = from_table(table, gravity.acceleration, table.dtype)
    return start(rule, gravity, particles, limits.time)


@partial(jax.jit, static_argnames="gravity")
def _run_some(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> tuple[Rollout, Bool[Array, ""]]:
    rollout = run_on(rule, gravity, rollout, limits, num_steps)
    return rollout, is_running(rollout, limits)
