"""The state of a gravitational N-body system. Units: G = 1."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

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

    def __repr__(self) -> str:
        """One line: how many bodies, and when."""
        if not hasattr(self.position, "shape"):  # a tree of axes or shardings
            return object.__repr__(self)
        *systems, bodies, dim = self.position.shape
        many = "".join(f"{count} systems of " for count in systems)
        words = f"Particles({many}{bodies} bodies in {dim}D, {self.position.dtype}"
        is_known = isinstance(self.time, jax.Array) and not isinstance(self.time, jax.core.Tracer)
        is_one = is_known and self.time.ndim == 0
        return f"{words}, time {float(self.time):g})" if is_one else f"{words})"

    def replace(self, **changes: Array) -> "Particles":
        """A copy with some fields changed."""
        return replace(self, **changes)


def from_table(
    table: ArrayLike | Sequence[Sequence[ArrayLike]],
    acceleration: AccelerationFn,
    dtype: DTypeLike = float,
    time: ArrayLike = 0.0,
) -> Particles:
    """The state of a table of bodies, or the states of a batch of tables.

    Args:
        table: `[N, 1 + 2 D]`, columns mass, position, velocity; or `[B, N, 1 + 2 D]`.
        acceleration: the force law, such as `Gravity().acceleration`.
        dtype: dtype of the state; by default float64 if `jax_enable_x64` is on, else float32.
        time: of the state, `[]`; of a batch, also `[B]`.

    Raises:
        UserError: the table has another shape.
    """
    _note_single_precision(dtype)
    table, time = jnp.asarray(table, dtype), jnp.asarray(time, dtype)
    require(
        table.ndim in (2, 3) and table.shape[-1] >= 3 and table.shape[-1] % 2 == 1,
        "a table of bodies must be [N, 1 + 2 D] (mass, position, velocity), or a batch of them "
        f"[B, N, 1 + 2 D], not {table.shape}",
    )
    if table.ndim == 3:
        times = jnp.broadcast_to(time, table.shape[:1])
        return jax.vmap(lambda one, at: _from_table(one, acceleration, at))(table, times)
    return _from_table(table, acceleration, time)


def _from_table(
    table: Float[Array, "N C"], acceleration: AccelerationFn, time: Float[Array, ""]
) -> Particles:
    dim = (table.shape[1] - 1) // 2
    mass, position, velocity = table[:, 0], table[:, 1 : 1 + dim], table[:, 1 + dim :]
    return Particles(
        mass=mass,
        position=position,
        velocity=velocity,
        acceleration=acceleration(position, mass, time),
        time=time,
        dt=jnp.zeros((), table.dtype),
    )


@lru_cache(1)
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _note_single_precision(dtype: DTypeLike) -> None:
    """Says once that the default precision is single, since JAX does not."""
    if dtype is float and jax.dtypes.canonicalize_dtype(float) == jnp.float32:
        _say_once(
            "bodies are float32, with 7 digits, as jax_enable_x64 is off; for 16 digits call "
            'jax.config.update("jax_enable_x64", True) first'
        )


def to_table(particles: Particles) -> Float[Array, "N C"]:
    """The table `[N, 1 + 2 D]` of a state; the inverse of `from_table`."""
    columns = (particles.mass[:, None], particles.position, particles.velocity)
    return jnp.concatenate(columns, axis=1)
