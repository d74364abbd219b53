"""The state of a gravitational N-body system. Units: G = 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxstepper.errors import require

AccelerationFn = Callable[[Array, Array, Array], Array]
"""(position `[N, D]`, mass `[N]`, time `[]`) -> acceleration `[N, D]`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Particles:
    """N particles in D dimensions; a batch of B systems has a leading axis B on every field.

    Attributes:
        mass: `[N]`.
        position: `[N, D]`.
        velocity: `[N, D]`.
        acceleration: `[N, D]`, at `position` and `time`; carrying it makes a leapfrog step cost one
            evaluation instead of two.
        time: `[]`.
        dt: `[]`, the step that produced this state (0 for an initial state).
    """

    mass: Float[Array, "*B N"]
    position: Float[Array, "*B N D"]
    velocity: Float[Array, "*B N D"]
    acceleration: Float[Array, "*B N D"]
    time: Float[Array, "*B"]
    dt: Float[Array, "*B"]

    def replace(self, **changes: Array) -> "Particles":
        """A copy with some fields changed."""
        return replace(self, **changes)


def from_table(
    table: ArrayLike | Sequence[Sequence[ArrayLike]],
    acceleration: AccelerationFn,
    dtype: DTypeLike = float,
    time: ArrayLike = 0.0,
) -> Particles:
    """The state of a table of bodies.

    Args:
        table: `[N, 1 + 2 D]`, columns mass, position, velocity.
        acceleration: the force law, such as `Gravity().acceleration`.
        dtype: dtype of the state; by default float64 if `jax_enable_x64` is on, else float32.
        time: of the state, `[]`.

    Raises:
        UserError: the table has another shape.
    """
    table = jnp.asarray(table, dtype)
    require(
        table.ndim == 2 and table.shape[1] >= 3 and table.shape[1] % 2 == 1,
        f"a table of bodies must be [N, 1 + 2 D] (mass, position, velocity), not {table.shape}",
    )
    dim = (table.shape[-1] - 1) // 2
    mass, position, velocity = table[:, 0], table[:, 1 : 1 + dim], table[:, 1 + dim :]
    zero, time = jnp.zeros((), dtype), jnp.asarray(time, dtype)
    return Particles(
        mass=mass,
        position=position,
        velocity=velocity,
        acceleration=acceleration(position, mass, time),
        time=time,
        dt=zero,
    )


def to_table(particles: Particles) -> Float[Array, "N C"]:
    """The table `[N, 1 + 2 D]` of a state; the inverse of `from_table`."""
    columns = (particles.mass[:, None], particles.position, particles.velocity)
    return jnp.concatenate(columns, axis=1)
