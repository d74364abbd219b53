"""States to step from, with their energies and network inputs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxstepper.network.features import network_input, observe
from jaxstepper.network.history import History, empty_history, push
from jaxstepper.physics.diagnostics import internal_energy
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.training.two_phase.plan import Plan


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """B states to step from.

    Attributes:
        particles: the states.
        energy: `[B]`, their internal energies, for pictures.
        inputs: `[B, F]`, the network's inputs, each with its own history window.
    """

    particles: Particles
    energy: Float[Array, "*B"]
    inputs: Float[Array, "*B F"]


def start_systems(plan: Plan, tables: ArrayLike) -> tuple[Sample, History]:
    """Systems at the start of their paths, with empty windows, from `[B, N, 1 + 2 D]`."""
    dtype = plan.network.dtype
    tables = jnp.asarray(tables, dtype)
    particles = jax.vmap(lambda t: from_table(t, plan.gravity.acceleration, dtype))(tables)
    history = jax.vmap(lambda p: empty_history(plan.features.history_len, p))(particles)
    return make_sample(plan, particles, history), history


def make_sample(plan: Plan, particles: Particles, history: History) -> Sample:
    """States `[B]` with their energies and network inputs."""

    def of_system(p: Particles, h: History) -> Sample:
        observed = observe(plan.features, plan.gravity, p)
        inputs = network_input(plan.features, h, observed)
        return Sample(p, internal_energy(p, plan.gravity), inputs)

    return jax.vmap(of_system)(particles, history)


def remember(plan: Plan, history: History, particles: Particles) -> History:
    """The windows `[B]` with the states `[B]` pushed."""

    def of_system(h: History, p: Particles) -> History:
        return push(h, observe(plan.features, plan.gravity, p))

    return jax.vmap(of_system)(history, particles)
