"""Step-size rules, as pairs of pure functions that compose.

A controller is `init(particles) -> memory` and `step_size(memory, particles) -> (dt, memory)`.
Rollouts call `step_size` at every state and take a step of that dt. Both functions work under `jit`,
`vmap` and `grad`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
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


class Controller(NamedTuple):
    """A step-size rule.

    Attributes:
        init: the memory before the first step.
        step_size: dt `[]` for the step from a state, and the memory after it.
        evaluations: evaluations of accelerations in one call of `step_size`.
    """

    init: Callable[[Particles], Memory]
    step_size: Callable[[Memory, Particles], tuple[Float[Array, ""], Memory]]
    evaluations: int = 0


def fixed(dt: float) -> Controller:
    """The same dt for every step."""

    def step_size(memory: Memory, particles: Particles) -> tuple[Array, Memory]:
        return jnp.asarray(dt, particles.time.dtype), memory

    return Controller(lambda particles: (), step_size)


def learned(
    network: StepNetwork, variables: Variables, features: FeatureSpec, gravity: Gravity
) -> Controller:
    """The network's dt, from the current state and the states this rollout has been through."""

    def init(particles: Particles) -> Memory:
        return empty_history(features.history_len, particles)

    def step_size(memory: Memory, particles: Particles) -> tuple[Array, Memory]:
        observed = observe(features, gravity, particles)
        inputs = network_input(features, memory, observed)
        dt = network.apply(variables, inputs)[0] + LEARNED_DT_FLOOR
        return dt, push(memory, observed)

    return Controller(init, step_size, 0 if reuses_acceleration(features, gravity) else 1)
