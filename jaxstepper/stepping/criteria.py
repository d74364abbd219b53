"""Criteria: how long the next step of a body is, from how its own force changes.

They are to individual steps what rules are to shared ones.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, dataclass_transform

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import safe_norm, safe_sqrt
from jaxstepper.stepping.rule import Number, register

# The eta of Aarseth's criterion, unless another is given.
DEFAULT_ETA = 0.02


class Derivatives(NamedTuple):
    """What is known of K bodies at the ends of their steps.

    Time counts as the rollout runs: backwards, velocities, jerks and crackles are those of the
    reversed motion.

    Attributes:
        acceleration: `[K, D]`.
        jerk: `[K, D]`, its first derivative.
        snap: `[K, D]`, its second derivative, of Hermite's interpolation over the last step.
        crackle: `[K, D]`, its third derivative likewise.
        mass: `[K]`, times G.
        dt: `[K]`, the length of the last step, > 0.
        velocity: `[K, D]`, about the barycentre; in an external field, in the field's own frame.
        speed: `[]`, the root of the mean squared speed of all bodies, by mass, in the same frame.
    """

    acceleration: Float[Array, "K D"]
    jerk: Float[Array, "K D"]
    snap: Float[Array, "K D"]
    crackle: Float[Array, "K D"]
    mass: Float[Array, " K"]
    dt: Float[Array, " K"]
    velocity: Float[Array, "K D"]
    speed: Float[Array, ""]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Criterion:
    """Chooses the next step of each body; individual steps round it down to a power of two.

    It should depend on sizes and angles of the derivatives alone: then neither the axes, nor the
    frame, nor the direction of time change a step.

    Every subclass becomes a frozen dataclass and a pytree, as a `Rule` does.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(dataclass(frozen=True)(cls))

    def first_step(
        self,
        acceleration: Float[Array, "N D"],
        jerk: Float[Array, "N D"],
        snap: Float[Array, "N D"],
        /,
    ) -> Float[Array, " N"]:
        """dt `[N]` of the first step of every body; infinite for one whose force is constant."""
        raise NotImplementedError

    def step_size(self, derivatives: Derivatives, /) -> Float[Array, " K"]:
        """dt `[K]` of the next step of each of K bodies; infinite where nothing changes."""
        raise NotImplementedError


class Aarseth(Criterion):
    """dt = sqrt(eta (|a| |s| + |j|^2) / (|j| |c| + |s|^2)), with jerk j, snap s and crackle c.

    The first step, before which c is not known, is eta_start sqrt(|a| |s| + |j|^2) / |s|: about
    that of eta_start |a| / |j|, but also for bodies that start at rest, without a jerk, or where
    the forces on them cancel. Source: Aarseth 1985.

    Attributes:
        eta: the error of a given time goes about as its square.
        eta_start: by default sqrt(eta) / 10.
    """

    eta: Number
    eta_start: Number | None = None

    def first_step(
        self,
        acceleration: Float[Array, "N D"],
        jerk: Float[Array, "N D"],
        snap: Float[Array, "N D"],
        /,
    ) -> Float[Array, " N"]:
        eta = 0.1 * jnp.sqrt(self.eta) if self.eta_start is None else self.eta_start
        a, j, s = (safe_norm(z) for z in (acceleration, jerk, snap))
        return eta * _ratio(safe_sqrt(a * s + j**2), s)

    def step_size(self, derivatives: Derivatives, /) -> Float[Array, " K"]:
        a, j, s, c = (safe_norm(z) for z in _changes(derivatives))
        return derivatives.dt * safe_sqrt(self.eta * _ratio(a * s + j**2, j * c + s**2))


def _changes(derivatives: Derivatives) -> list[Float[Array, "K D"]]:
    """The derivatives as changes over the last step: in float32, s^2 of short steps overflows."""
    dt = derivatives.dt[:, None]
    return [z * dt**k for k, z in enumerate(derivatives[:4])]


def _ratio(above: Float[Array, " K"], below: Float[Array, " K"]) -> Float[Array, " K"]:
    """above / below; infinite where `below` is 0, since nothing changes there."""
    changes = below != 0
    return jnp.where(changes, above / jnp.where(changes, below, 1.0), jnp.inf)
