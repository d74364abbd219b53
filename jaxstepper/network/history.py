"""A window of the last K states, whose fixed shape suits `scan` and `while_loop`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.particles import Particles


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class History:
    """The K states before the current one, oldest first; a missing one is all zeros.

    Attributes:
        position: `[K, N, D]`.
        velocity: `[K, N, D]`.
        acceleration: `[K, N, D]`, as the features see it (no external field).
        dt: `[K]`, the step that produced each state.
    """

    position: Float[Array, "*B K N D"]
    velocity: Float[Array, "*B K N D"]
    acceleration: Float[Array, "*B K N D"]
    dt: Float[Array, "*B K"]


def empty_history(length: int, particles: Particles) -> History:
    """A window of `length` missing states, of the shape and dtype of `particles`."""
    dtype = particles.position.dtype
    zeros = jnp.zeros((length, *particles.position.shape), dtype)
    return History(zeros, zeros, zeros, jnp.zeros((length,), dtype))


def append(history: History, state: Particles) -> History:
    """The K + 1 states of the window and `state`, oldest first."""
    state_fields = (state.position, state.velocity, state.acceleration, state.dt)
    newest = History(*(field[None] for field in state_fields))
    return jax.tree.map(lambda old, new: jnp.concatenate([old, new]), history, newest)


def push(history: History, state: Particles) -> History:
    """The window with `state` as its newest entry and the oldest dropped."""
    return jax.tree.map(lambda states: states[1:], append(history, state))
