"""Rollouts: a controller proposes dt, the leapfrog takes the step."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.controllers import Controller, Memory
from jaxstepper.diagnostics import angular_momentum, momentum, total_energy
from jaxstepper.dynamics import Gravity
from jaxstepper.integrators import leapfrog
from jaxstepper.particles import Particles

# States recorded in one device call of `record`; bounds its memory and lets the host look in.
STEPS_PER_CALL = 4096


class Rollout(NamedTuple):
    """Where a rollout stands: its state, the controller's memory, and the steps taken `[]`."""

    particles: Particles
    memory: Memory
    steps: Int[Array, ""]


class Trajectory(NamedTuple):
    """A recorded rollout of S steps, as numpy arrays.

    Attributes:
        time: `[S + 1]`.
        dt: `[S]`.
        position: `[S + 1, N, D]`.
        velocity: `[S + 1, N, D]`.
        energy: `[S + 1]`.
    """

    time: np.ndarray
    dt: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    energy: np.ndarray


def start(controller: Controller, particles: Particles) -> Rollout:
    """A rollout before its first step."""
    return Rollout(particles, controller.init(particles), jnp.zeros((), jnp.int32))


def advance(controller: Controller, gravity: Gravity, end_time: Array, rollout: Rollout) -> Rollout:
    """One step; the last one is shortened so that it ends at `end_time`."""
    particles, memory, steps = rollout
    dt, memory = controller.step_size(memory, particles)
    dt = jnp.minimum(dt, end_time - particles.time)
    return Rollout(leapfrog(particles, dt, gravity.acceleration), memory, steps + 1)


def is_running(rollout: Rollout, end_time: Array) -> Bool[Array, ""]:
    """Whether the rollout is before `end_time`, to rounding."""
    time = rollout.particles.time
    rounding = 8 * jnp.finfo(time.dtype).eps * end_time
    return time < end_time - jnp.where(jnp.isfinite(rounding), rounding, 0)


@partial(jax.jit, static_argnames=("controller", "gravity", "num_steps"))
def run_steps(
    controller: Controller, gravity: Gravity, particles: Particles, num_steps: int
) -> Rollout:
    """A rollout of `num_steps` steps, in a `scan`; differentiable."""
    forever = jnp.asarray(jnp.inf, particles.time.dtype)

    def body(rollout: Rollout, _: None) -> tuple[Rollout, None]:
        return advance(controller, gravity, forever, rollout), None

    return lax.scan(body, start(controller, particles), length=num_steps)[0]
