"""The states that a movie shows: those of a rollout, or those that training accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.physics.diagnostics import angular_momentum, momentum
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.recording import Trajectory


@dataclass(frozen=True)
class Film:
    """A sequence of F states.

    Attributes:
        mass: `[N]`.
        time: `[F]`.
        dt: `[F]`, the step that led to each state; NaN where a path begins.
        position: `[F, N, D]`.
        velocity: `[F, N, D]`.
        energy: `[F]`.
        epochs: `[F]`, epochs of training before each state; None for a rollout.
        units: those of length, time and mass, unless G = 1.
        names: of the bodies, if they have any.
    """

    mass: np.ndarray
    time: np.ndarray
    dt: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    energy: np.ndarray
    epochs: np.ndarray | None = None
    units: Mapping[str, str] | None = None
    names: Sequence[str] = ()

    @property
    def origin(self) -> np.ndarray:
        """`[F]`, the index at which the path of each state begins; training may restart paths."""
        begins = np.diff(self.time, prepend=np.inf) < 0
        return np.maximum.accumulate(np.where(begins, np.arange(len(self.time)), 0))

    def conserved(self) -> tuple[np.ndarray, np.ndarray]:
        """Momenta `[F, D]` and angular momenta `[F, ...]`, which are numbers for D = 2."""
        mass = jnp.asarray(self.mass)

        def of_state(position: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
            nothing = jnp.zeros((), position.dtype)
            state = Particles(mass, position, velocity, velocity, nothing, nothing)
            return momentum(state), angular_momentum(state)

        p, spin = jax.vmap(of_state)(jnp.asarray(self.position), jnp.asarray(self.velocity))
        return np.asarray(p), np.asarray(spin)


def film_of(
    trajectory: Trajectory,
    mass: np.ndarray,
    units: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> Film:
    """The film of a rollout of masses `[N]`, as long as it is finite."""
    parts = (trajectory.time, trajectory.position, trajectory.velocity, trajectory.energy)
    fine = [np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in parts]
    shown = np.logical_and.accumulate(np.all(fine, axis=0))
    dt = np.concatenate([[np.nan], trajectory.dt])
    time, position, velocity, energy = (part[shown] for part in parts)
    shown_states = (time, dt[shown], position, velocity, energy)
    return Film(np.asarray(mass), *shown_states, units=units, names=names)
