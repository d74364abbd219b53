"""Step-size rules, as pairs of pure functions that compose.

A controller is `init(particles) -> memory` and `step_size(memory, particles) -> (dt, memory)`.
Rollouts call `step_size` at every state and take a step of that dt. It works under `jit`, `vmap`
and `grad`; it is a pytree whose leaves are its numbers (a dt, the weights of a network), so that
one compiled rollout serves all controllers of a kind, and `vmap` runs many of them at once.

The rules of the literature are in `literature`, learned ones in the wing `network`; here are the
constant dt, and what turns one rule into another: `scaled` and `symmetrized`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.integrators import leapfrog
from jaxstepper.physics.particles import Particles

# A symmetrised step is at most this many times the step that its rule wants.
MOST_TIMES_WANTED = 2.0

Memory = Any
"""A pytree that a controller carries from step to step."""


def take_leapfrog_step(
    memory: Memory, particles: Particles, dt: Float[Array, ""], gravity: Gravity
) -> Particles:
    """A kick-drift-kick leapfrog step, whatever the memory."""
    del memory
    return leapfrog(particles, dt, gravity.acceleration)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Controller:
    """A step-size rule.

    Attributes:
        init: particles -> the memory before the first step.
        step_size: (memory, particles) -> dt `[]` for the step from that state, and the memory after
            it. Plain functions will do; numbers that vary go into a `jax.tree_util.Partial`.
        evaluations: evaluations of accelerations in one call of `step_size`.
        irreversible: why dt is not a function of the state alone that stays the same when all
            velocities are reversed; empty if it is, and then the rule can be symmetrised.
        take_step: (memory, particles, dt, gravity) -> particles after the step, with one evaluation
            of accelerations; the leapfrog, but for rules that come with an integrator of their own.
        rescaled: factor -> the rule with its dt scaled, where that is not just dt times the factor.
    """

    init: Callable[[Particles], Memory]
    step_size: Callable[[Memory, Particles], tuple[Float[Array, ""], Memory]]
    evaluations: int = field(default=0, metadata={"static": True})
    irreversible: str = field(default="", metadata={"static": True})
    take_step: Callable[[Memory, Particles, Array, Gravity], Particles] = take_leapfrog_step
    rescaled: Callable[[Array | float], "Controller"] | None = None

    def __post_init__(self) -> None:
        for name in ("init", "step_size", "take_step", "rescaled"):
            function = getattr(self, name)
            if callable(function):
                object.__setattr__(self, name, as_pytree(function))


def as_pytree(function: Callable) -> Partial:
    """The function as a `Partial`, whose leaves are the numbers it was given.

    Wrapped twice, the numbers of the inner one would be no leaves, but compiled in.
    """
    return function if isinstance(function, Partial) else Partial(function)


def no_memory(particles: Particles) -> Memory:
    """The `init` of a rule that looks at the current state alone."""
    del particles
    return ()


def _memoryless_step(
    step_size: Callable[[Particles], Array | float], memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    return jnp.asarray(step_size(particles), particles.time.dtype), memory


def memoryless(step_size: Callable[[Particles], Float[Array, ""] | float]) -> Controller:
    """The rule of any function of the state: particles -> dt `[]`.

    Numbers that vary from one rollout to the next go into a `jax.tree_util.Partial` around it. To
    be symmetrised, the function must not change when all velocities are reversed.
    """
    return Controller(no_memory, Partial(_memoryless_step, as_pytree(step_size)))


def _constant(dt: Array | float, particles: Particles) -> Array | float:
    del particles
    return dt


def fixed(dt: Float[Array, ""] | float) -> Controller:
    """The same dt for every step."""
    return memoryless(Partial(_constant, dt))


def _scaled_step(
    factor: Array | float, rule: Controller, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    dt, memory = rule.step_size(memory, particles)
    return jnp.asarray(factor, particles.time.dtype) * dt, memory


def scaled(rule: Controller, factor: Float[Array, ""] | float) -> Controller:
    """A rule with its steps made longer or shorter by a factor > 0."""
    if rule.rescaled is not None:
        return rule.rescaled(factor)
    return replace(rule, step_size=Partial(_scaled_step, factor, rule))


def _symmetrized_init(rule: Controller, particles: Particles) -> Memory:
    # A rho of 0 marks the start.
    return jnp.zeros((), particles.time.dtype), rule.init(particles)


def _symmetrized_step(
    rule: Controller, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    rho, inner = memory
    wanted, inner = rule.step_size(inner, particles)
    wanted = jnp.asarray(wanted, rho.dtype)
    rho = jnp.where(rho == 0, 1 / wanted, 2 / wanted - rho)
    rho = jnp.maximum(rho, 1 / (MOST_TIMES_WANTED * wanted))
    return 1 / rho, (rho, inner)


def symmetrized(rule: Controller) -> Controller:
    """The rule made time-reversible: the energy error then oscillates, but does not drift.

    Where the rule wants the step tau(state), carry rho = 1 / dt and at every state set
    rho <- 2 / tau - rho, so that 1 / tau is the mean of rho before and after the state, whichever
    way time runs; at the start rho = 1 / tau. It costs nothing, and there is no iteration.
    rho is kept above 1 / (2 tau): where tau grows so fast from one state to the next that the floor
    is reached, that step is not reversible.
    Source: Huang & Leimkuhler 1997, the adaptive Verlet method.

    Raises:
        UserError: the rule is not a function of the state that stays the same when velocities are
            reversed.
    """
    if rule.irreversible:
        raise UserError(f"this rule cannot be symmetrised: {rule.irreversible}")
    return replace(
        rule,
        init=Partial(_symmetrized_init, rule),
        step_size=Partial(_symmetrized_step, rule),
        irreversible="it is reversible as it is",
        rescaled=None if rule.rescaled is None else Partial(_symmetrized_rescaled, rule),
    )


def _symmetrized_rescaled(rule: Controller, factor: Array | float) -> Controller:
    return symmetrized(scaled(rule, factor))
