"""Rollouts: a rule chooses dt and takes the step, again and again, up to a limit."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rule import Memory, Rule

MOST_STEPS = 2**31 - 1


class Rollout(NamedTuple):
    """Where a rollout stands.

    Attributes:
        particles: the state.
        memory: what the rule carries.
        steps: `[]`, the number taken so far.
    """

    particles: Particles
    memory: Memory
    steps: Int[Array, ""]


class Limits(NamedTuple):
    """When a rollout ends: at this time or after so many steps, whichever comes first."""

    time: Float[Array, ""] | float = np.inf
    steps: Int[Array, ""] | int = MOST_STEPS


def start(rule: Rule, particles: Particles) -> Rollout:
    """A rollout before its first step."""
    return Rollout(particles, rule.init(particles), jnp.zeros((), jnp.int32))


def advance(
    rule: Rule, gravity: Gravity, rollout: Rollout, end_time: Array | float = np.inf
) -> Rollout:
    """The rollout one step further; a step beyond `end_time` is shortened to end there."""
    particles, memory, steps = rollout
    dt, memory = rule.step_size(memory, particles)
    dt = jnp.minimum(dt, end_time - particles.time)
    return Rollout(rule.take_step(memory, particles, dt, gravity), memory, steps + 1)


def reverse(rule: Rule, rollout: Rollout) -> Rollout:
    """The rollout turned round: velocities reversed, and the memory made that of the way back.

    A reversible rule, such as a `Symmetrized` one, then leads back to where the rollout began,
    unless a step was shortened to end at a given time.
    """
    particles, memory, steps = rollout
    # The memory belongs to the step before this state, which on the way back is the step after it.
    _, memory = rule.step_size(memory, particles)
    return Rollout(particles.replace(velocity=-particles.velocity), memory, steps)


def force_evaluations(rule: Rule, steps: int) -> int:
    """How often a rollout of so many steps evaluates the accelerations of all bodies.

    Once at the start, and in each step once for the integrator plus the evaluations of the rule.
    """
    return 1 + steps * (1 + rule.evaluations)


def is_running(rollout: Rollout, limits: Limits) -> Bool[Array, ""]:
    """Whether neither limit is reached, up to rounding of the time."""
    time = rollout.particles.time
    left = limits.time - time
    return (left > 8 * jnp.finfo(time.dtype).eps * time) & (rollout.steps < limits.steps)


def share_done(rollout: Rollout, limits: Limits) -> Float[Array, ""]:
    """The share of a rollout that is done; 1 at its end, whichever limit ended it."""
    time = rollout.particles.time
    share = jnp.maximum(time / limits.time, (rollout.steps / limits.steps).astype(time.dtype))
    return jnp.where(is_running(rollout, limits), share, 1.0)


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_steps(rule: Rule, gravity: Gravity, particles: Particles, num_steps: int) -> Rollout:
    """A rollout of `num_steps` steps, in a `scan`; differentiable in both directions."""

    def body(rollout: Rollout, _: None) -> tuple[Rollout, None]:
        return advance(rule, gravity, rollout), None

    return lax.scan(body, start(rule, particles), length=num_steps)[0]


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_systems(rule: Rule, gravity: Gravity, particles: Particles, num_steps: int) -> Rollout:
    """Rollouts of `num_steps` steps of many systems, every field `[B, ...]`.

    The result is that of `vmap` of `run_steps`; for a few bodies it comes several times faster. On
    the way the systems are the last axis of every array, so that arithmetic runs along them.
    """
    gravity = replace(gravity, by_component=True)
    starts = jax.vmap(lambda each: start(rule, each))(particles)
    # Bare arrays, since `Particles` with the systems last would have the wrong shapes.
    leaves, structure = jax.tree.flatten(starts)

    def step(one: list[Array]) -> list[Array]:
        rollout = jax.tree.unflatten(structure, one)
        return jax.tree.leaves(advance(rule, gravity, rollout))

    def body(all_systems: list[Array], _: None) -> tuple[list[Array], None]:
        return jax.vmap(step, in_axes=-1, out_axes=-1)(all_systems), None

    systems_last = [jnp.moveaxis(leaf, 0, -1) for leaf in leaves]
    systems_last, _ = lax.scan(body, systems_last, length=num_steps)
    return jax.tree.unflatten(structure, [jnp.moveaxis(leaf, -1, 0) for leaf in systems_last])


@partial(jax.jit, static_argnames="gravity")
def run_until(rule: Rule, gravity: Gravity, particles: Particles, limits: Limits) -> Rollout:
    """A rollout up to the limits, in a `while_loop`."""
    return run_on(rule, gravity, start(rule, particles), limits, MOST_STEPS)


def run_on(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> Rollout:
    """The rollout at its limits or `num_steps` steps further, whichever comes first."""
    before = rollout.steps

    def body(rollout: Rollout) -> Rollout:
        return advance(rule, gravity, rollout, limits.time)

    def running(rollout: Rollout) -> Array:
        return is_running(rollout, limits) & (rollout.steps - before < num_steps)

    return lax.while_loop(running, body, rollout)


def blown_up_at(rule: Rule, gravity: Gravity, particles: Particles, steps: int) -> int:
    """The first step after which the energy of a rollout is not finite, given that it ends so.

    Found by bisection, since such an energy never recovers. A check at every step would slow down
    every rollout.
    """
    fine, bad = 0, steps
    while bad - fine > 1:
        middle = (fine + bad) // 2
        rollout = run_until(rule, gravity, particles, Limits(steps=middle))
        if np.isfinite(total_energy(rollout.particles, gravity)):
            fine = middle
        else:
            bad = middle
    return bad
