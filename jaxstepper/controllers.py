"""Step-size rules, as pairs of pure functions that compose.

A controller is `init(particles) -> memory` and `step_size(memory, particles) -> (dt, memory)`.
Rollouts call `step_size` at every state and take a step of that dt. It works under `jit`, `vmap`
and `grad`; it is a pytree whose leaves are its numbers (a dt, the weights of a network), so that
one compiled rollout serves all controllers of a kind, and `vmap` runs many of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxstepper.dynamics import Gravity
from jaxstepper.features import FeatureSpec, network_input, observe, reuses_acceleration
from jaxstepper.history import empty_history, push
from jaxstepper.networks import StepNetwork, Variables
from jaxstepper.particles import Particles

# Keeps a learned dt above zero in simulation, as the torch simulator does.
LEARNED_DT_FLOOR = 1e-6

Memory = Any
"""A pytree that a controller carries from step to step."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Controller:
    """A step-size rule.

    Attributes:
        init: particles -> the memory before the first step.
        step_size: (memory, particles) -> dt `[]` for the step from that state, and the memory after
            it. Plain functions will do; numbers that vary go into a `jax.tree_util.Partial`.
        evaluations: evaluations of accelerations in one call of `step_size`.
    """

    init: Callable[[Particles], Memory]
    step_size: Callable[[Memory, Particles], tuple[Float[Array, ""], Memory]]
    evaluations: Any = 0

    def __post_init__(self) -> None:
        for name in ("init", "step_size"):
            function = getattr(self, name)
            if callable(function) and not isinstance(function, Partial):
                object.__setattr__(self, name, Partial(function))


def _no_memory(particles: Particles) -> Memory:
    del particles
    return ()


def _fixed_step(dt: Array | float, memory: Memory, particles: Particles) -> tuple[Array, Memory]:
    return jnp.asarray(dt, particles.time.dtype), memory


def fixed(dt: Float[Array, ""] | float) -> Controller:
    """The same dt for every step."""
    return Controller(_no_memory, Partial(_fixed_step, dt))


@jax.tree_util.register_static
@dataclass(frozen=True)
class _LearnedRule:
    """What is fixed about a learned controller; equal ones compile once."""

    network: StepNetwork
    features: FeatureSpec
    gravity: Gravity


def _learned_init(rule: _LearnedRule, particles: Particles) -> Memory:
    return empty_history(rule.features.history_len, particles)


def _learned_step(
    rule: _LearnedRule, variables: Variables, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    observed = observe(rule.features, rule.gravity, particles)
    inputs = network_input(rule.features, memory, observed)
    dt = rule.network.apply(variables, inputs)[0] + LEARNED_DT_FLOOR
    return dt, push(memory, observed)


def learned(
    network: StepNetwork, variables: Variables, features: FeatureSpec, gravity: Gravity
) -> Controller:
    """The network's dt, from the current state and the states this rollout has been through."""
    rule = _LearnedRule(network, features, gravity)
    evaluations = 0 if reuses_acceleration(features, gravity) else 1
    return Controller(
        Partial(_learned_init, rule), Partial(_learned_step, rule, variables), evaluations
    )
