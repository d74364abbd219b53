"""The loss of a whole window of steps: work and largest energy error, drift included.

The rule, symmetrised if it can be, takes the steps of a window of time, and the gradient goes
through all of them. So a step pays for its effect on later steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.physics.diagnostics import internal_energy, reference_energy, relative_energy_error
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rollout import Rollout, advance, start
from jaxstepper.stepping.rule import Rule, symmetrized

# The order of the norm over the steps that stands for the largest error, and is smooth.
NORM = 32
# Pulls the error to the tolerance; without it, all points of a work-precision curve are equal.
PULL = 0.3
# Beyond this log ratio of error to tolerance, the pull stays constant.
MOST_LOG_RATIO = 10.0
# If log(dt) changes by more than this from step to step, the symmetrised rule may begin to swing
# about the right steps, and end with steps that are far too long.
SMOOTH = 0.3
SMOOTHNESS = 10.0
TINY = 1e-24


class Window(NamedTuple):
    """What a rule did in a window.

    Attributes:
        log_error: `[]`, logarithm of the largest relative energy error.
        log_steps: `[]`, logarithm of the number of steps for the whole window.
        covered: `[]`, share of the window that the available steps were enough for.
        roughness: `[]`, mean square of the excess of changes of log(dt) over `SMOOTH`, and on
            schemes of higher order the mean product of changes one way and back.
    """

    log_error: Float[Array, ""]
    log_steps: Float[Array, ""]
    covered: Float[Array, ""]
    roughness: Float[Array, ""]


def run_window(
    rule: Rule, gravity: Gravity, particles: Particles, span: Array, most_steps: int
) -> Window:
    """Takes the steps that fill the time `span`, or `most_steps` of them.

    Only the share of the last step inside the window counts, so that the number of steps has a
    gradient. If the steps do not fill the window, their number is extrapolated to all of it.
    """
    initial = reference_energy(particles, gravity)
    order = rule.scheme.order

    def body(
        carry: tuple[Rollout, Array], _: None
    ) -> tuple[tuple[Rollout, Array], tuple[Array, Array, Array]]:
        rollout, last_change = carry
        before = rollout.particles.time
        new = advance(rule, gravity, rollout)
        dt = new.particles.time - before
        inside = jnp.clip((span - before) / dt, 0.0, 1.0)
        error = relative_energy_error(internal_energy(new.particles, gravity), initial)
        last = rollout.particles.dt
        change = jnp.log(dt / jnp.where(last > 0, last, dt))
        rough = jnp.maximum(jnp.abs(change) - SMOOTH * order / 2, 0.0) ** 2
        if order > 2:
            # Steps so long as a higher order allows swing within that limit.
            rough = rough + jnp.maximum(-change * last_change, 0.0)
        rollout = jax.tree.map(lambda x, y: jnp.where(before < span, x, y), new, rollout)
        return (rollout, change), (error**2, inside, inside * rough)

    begin = start(rule, gravity, particles)
    (rollout, _), (squares, inside, rough) = lax.scan(
        jax.checkpoint(body), (begin, jnp.zeros_like(begin.particles.dt)), length=most_steps
    )
    weighted = 0.5 * NORM * jnp.log(squares + TINY) + jnp.log(inside + TINY)
    covered = jnp.minimum(rollout.particles.time / span, 1.0)
    steps = jnp.sum(inside)
    return Window(
        log_error=jax.nn.logsumexp(weighted) / NORM,
        log_steps=jnp.log(steps / covered),
        covered=covered,
        roughness=jnp.sum(rough) / steps,
    )


def window_loss(window: Window, tolerance: Array, order: int = 2) -> Float[Array, ""]:
    """log(steps) + log(error) / order + a pull of the error to the tolerance + roughness.

    The error of small steps goes as their size to the order of the scheme, so the sum of the first
    two is constant along a work-precision curve: they ask for the best curve, and the pull for the
    place on it.
    """
    off = jnp.clip(window.log_error - jnp.log(tolerance), -MOST_LOG_RATIO, MOST_LOG_RATIO)
    work = window.log_steps + window.log_error / order
    return work + PULL * off**2 + SMOOTHNESS * window.roughness


def imitation_loss(
    rule: Rule, teacher: Rule, gravity: Gravity, particles: Particles, span: Array, most_steps: int
) -> Float[Array, ""]:
    """The mean of log(dt / teacher's dt)^2 along the teacher's steps; differentiable in `rule`."""

    def body(
        carry: tuple[Rollout, Any], _: None
    ) -> tuple[tuple[Rollout, Any], tuple[Array, Array]]:
        rollout, memory = carry
        inside = (rollout.particles.time < span).astype(span.dtype)
        new = lax.stop_gradient(advance(teacher, gravity, rollout))
        wanted, _ = teacher.step_size(rollout.memory, rollout.particles)
        dt, memory = rule.step_size(memory, rollout.particles)
        off = jnp.log(dt / lax.stop_gradient(wanted)) ** 2
        return (new, memory), (inside * off, inside)

    begin = (start(teacher, gravity, particles), rule.init(particles))
    _, (off, inside) = lax.scan(body, begin, length=most_steps)
    return jnp.sum(off) / jnp.sum(inside)


def as_trained(rule: Rule) -> Rule:
    """The rule as it is trained: symmetrised, if it can be."""
    return rule if rule.irreversible else symmetrized(rule)
