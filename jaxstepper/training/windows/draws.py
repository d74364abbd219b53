"""Draws the windows of an iteration from a pool of systems."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxstepper.network.learned import root
from jaxstepper.physics.pairs import Pairs, minimum_over_pairs
from jaxstepper.physics.particles import Particles, from_table, to_table
from jaxstepper.stepping.literature import free_fall
from jaxstepper.stepping.rollout import Limits, run_until
from jaxstepper.stepping.rule import Rule
from jaxstepper.training.windows.loss import as_trained, run_window
from jaxstepper.training.windows.plan import WindowPlan

# A window is so long that free fall would need this share of the steps.
STEPS_EXPECTED = 0.8
# The shortest window, in spans; the tolerance is raised instead. Half an orbit from an apsis shows
# everything to a reversible rule.
SHORTEST = 0.6
# A span then counts as at most so many periods of the tightest binary, wherever that starts from.
PERIODS = 2.0
# The free-fall rule that the learned one is compared with, and the steps of the comparison.
REFERENCE_ETA, REFERENCE_STEPS = 0.03, 2048
REFERENCES_AT_ONCE = 128
# The most steps before a window starts.
MOST_STEPS_BEFORE = 100_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pool:
    """M systems that windows start from.

    Attributes:
        tables: `[M, N, 1 + 2 D]`, initial conditions.
        span: `[M]`, a time scale of each system, such as its period.
        work: `[M]`, log(steps a span) + log(error) / order of the symmetrised free-fall rule.
    """

    tables: Float[Array, "M N C"]
    span: Float[Array, " M"]
    work: Float[Array, " M"]


def make_pool(plan: WindowPlan, tables: ArrayLike, span: ArrayLike, key: Array) -> Pool:
    """The pool of systems `[M, N, 1 + 2 D]` with the time scales `span` `[M]`."""
    dtype = plan.network.dtype
    tables, span = jnp.asarray(tables, dtype), jnp.asarray(span, dtype)
    if plan.start > 0:
        tables = _evolved(plan, tables, span, key)
    return Pool(tables, span, _reference_work(plan, tables, span))


def _evolved(plan: WindowPlan, tables: Array, span: Array, key: Array) -> Float[Array, "M N C"]:
    """The systems at random times up to the latest start of a window."""
    times = plan.start * span * jax.random.uniform(key, span.shape, span.dtype)

    def of_system(system: tuple[Array, Array]) -> Array:
        table, time = system
        limits = Limits(time, MOST_STEPS_BEFORE)
        return to_table(
            run_until(_reference(plan), plan.gravity, start_of(plan, table), limits).particles
        )

    return lax.map(of_system, (tables, times), batch_size=REFERENCES_AT_ONCE)


def _reference_work(plan: WindowPlan, tables: Array, span: Array) -> Float[Array, " M"]:
    order, rule = plan.scheme.order, _reference(plan)

    def of_system(system: tuple[Array, Array]) -> Array:
        table, span = system
        window = run_window(rule, plan.gravity, start_of(plan, table), span, REFERENCE_STEPS)
        return window.log_steps + window.log_error / order

    return lax.map(of_system, (tables, span), batch_size=REFERENCES_AT_ONCE)


def _reference(plan: WindowPlan) -> Rule:
    """The free-fall rule that others are compared with; its error is alike on every scheme."""
    squared = jnp.asarray(REFERENCE_ETA**2, plan.network.dtype)
    return as_trained(teacher(plan, root(squared, plan.scheme.order)))


def teacher(plan: WindowPlan, eta: Array) -> Rule:
    """The free-fall rule, on the scheme and in the gravity of the plan."""
    gravity = plan.gravity
    return free_fall(eta, gravity.softening, external=gravity.external).on(plan.scheme)


def start_of(plan: WindowPlan, table: Array) -> Particles:
    return from_table(table, plan.gravity.acceleration, plan.network.dtype)


class Draw(NamedTuple):
    """A window to train on: its start, its length in time and in spans, its tolerance."""

    table: Float[Array, "*B N C"]
    time: Float[Array, "*B"]
    spans: Float[Array, "*B"]
    work: Float[Array, "*B"]
    tolerance: Float[Array, "*B"]


def draw_windows(plan: WindowPlan, pool: Pool, key: Array) -> Draw:
    """The windows `[B]` of an iteration."""
    draw_systems, draw_tolerances, draw_units = jax.random.split(key, 3)
    chosen = jax.random.randint(draw_systems, (plan.batch,), 0, pool.span.shape[0])
    low, high = np.log(plan.tolerances)
    share = jax.random.uniform(draw_tolerances, (plan.batch,), plan.network.dtype)
    tolerance = jnp.exp(low + share * (high - low))
    order = plan.scheme.order
    work, enough = pool.work[chosen], STEPS_EXPECTED * plan.steps
    shortest = jax.vmap(partial(_shortest, plan))(pool.tables[chosen], pool.span[chosen])
    tolerance = jnp.maximum(tolerance, (shortest * jnp.exp(work) / enough) ** order)
    spans = jnp.minimum(plan.spans, enough * root(tolerance, order) / jnp.exp(work))
    exponents = jax.random.uniform(draw_units, (2, plan.batch), plan.network.dtype, -1.0, 1.0)
    mass, length = plan.unit_spread**exponents
    tables = jax.vmap(in_units)(pool.tables[chosen], mass, length)
    time = spans * pool.span[chosen] * jnp.sqrt(length**3 / mass)
    return Draw(tables, time, spans, work, tolerance)


def _shortest(plan: WindowPlan, table: Array, span: Array) -> Float[Array, ""]:
    """The shortest window of a system, in spans."""
    softening = plan.gravity.softening
    particles = start_of(plan, table)
    period = minimum_over_pairs(partial(period_of, softening=softening), particles, softening)
    return SHORTEST * jnp.minimum(PERIODS * period / span, 1.0)


def period_of(pairs: Pairs, softening: float) -> Float[Array, "*P"]:
    """2 pi (a^2 + 3/4 softening^2)^(3/4) / sqrt(mu) for a = -mu / 2E; infinite if not bound.

    It is exact for orbits much larger than the softening, and for those much smaller, which have
    a = softening / 2.
    """
    twice_binding = 2 * pairs.mu / pairs.distance - pairs.speed_squared
    bound = twice_binding > 0
    a = pairs.mu / jnp.where(bound, twice_binding, 1.0)
    period = 2 * jnp.pi * (a**2 + 0.75 * softening**2) ** 0.75 / jnp.sqrt(pairs.mu)
    return jnp.where(bound, period, jnp.inf)


def in_units(table: Array, mass: Array, length: Array) -> Array:
    """The table `[N, 1 + 2 D]` with masses and lengths scaled by these factors."""
    dim = (table.shape[1] - 1) // 2
    m, x, v = jnp.split(table, [1, 1 + dim], axis=1)
    return jnp.concatenate([mass * m, length * x, jnp.sqrt(mass / length) * v], axis=1)
