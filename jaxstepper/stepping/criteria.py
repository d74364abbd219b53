"""Criteria: how long the next step of a body is, from how its own force changes.

They are to individual steps what rules are to shared ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, dataclass_transform

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import safe_norm, safe_sqrt
from jaxstepper.stepping.rule import Number, register

# Smaller changes count as this; squares of it are numbers in float32.
TINY = 1e-18


class Derivatives(NamedTuple):
    """What is known of K bodies at the ends of their steps.

    Attributes:
        acceleration: `[K, D]`.
        jerk: `[K, D]`, its first derivative.
        snap: `[K, D]`, its second derivative, of Hermite's interpolation over the last step.
        crackle: `[K, D]`, its third derivative likewise.
        mass: `[K]`.
        dt: `[K]`, the length of the last step, > 0.
    """

    acceleration: Float[Array, "K D"]
    jerk: Float[Array, "K D"]
    snap: Float[Array, "K D"]
    crackle: Float[Array, "K D"]
    mass: Float[Array, " K"]
    dt: Float[Array, " K"]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Criterion:
    """Chooses the next step of each body; individual steps round it down to a power of two.

    It should depend on sizes and angles of the derivatives alone: then neither the axes, nor the
    frame, nor the direction of time, in which jerk and crackle change their signs, change a step.

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


# Of `Fitted`, as `scripts/fit_criterion.py` found them.
WEIGHTS = (0.208, 0.561, -0.427, -1.172, -0.339, -0.089, -0.068, -0.06, 0.134, -0.159, -0.322)


class Fitted(Criterion):
    """Aarseth's step times exp(w . f), with weights w fitted to clusters.

    f are functions of |a| |s| / |j|^2 and |j| |c| / |s|^2, and cosines of the angles between the
    derivatives, even where the direction of time would change their signs: nothing in them has a
    scale, an axis or a direction of time.

    Attributes:
        eta: as that of `Aarseth`; the error of a given time goes about as its square.
        weights: `[11]`, of `_features`; all 0 for Aarseth's criterion.
    """

    eta: Number
    weights: Float[Array, " F"] | tuple[float, ...] = WEIGHTS

    def first_step(
        self,
        acceleration: Float[Array, "N D"],
        jerk: Float[Array, "N D"],
        snap: Float[Array, "N D"],
        /,
    ) -> Float[Array, " N"]:
        return Aarseth(self.eta).first_step(acceleration, jerk, snap)

    def step_size(self, derivatives: Derivatives, /) -> Float[Array, " K"]:
        exponent = sum(w * f for w, f in zip(self.weights, _features(derivatives), strict=True))
        return Aarseth(self.eta).step_size(derivatives) * jnp.exp(jnp.asarray(exponent))


def _features(derivatives: Derivatives) -> list[Float[Array, " K"]]:
    a, j, s, c = _changes(derivatives)
    size_a, size_j, size_s, size_c = (jnp.maximum(safe_norm(z), TINY) for z in (a, j, s, c))

    def cosine(x: Array, y: Array, sizes: Array) -> Array:
        return jnp.sum(x * y, axis=1) / sizes

    # The fourth root of a ratio, smoothly within -1 and 1.
    p = jnp.tanh((jnp.log(size_a) + jnp.log(size_s) - 2 * jnp.log(size_j)) / 4)
    q = jnp.tanh((jnp.log(size_j) + jnp.log(size_c) - 2 * jnp.log(size_s)) / 4)
    angles = [cosine(a, s, size_a * size_s), cosine(j, c, size_j * size_c)]
    squares = [
        cosine(a, j, size_a * size_j) ** 2,
        cosine(j, s, size_j * size_s) ** 2,
        cosine(s, c, size_s * size_c) ** 2,
        cosine(a, c, size_a * size_c) ** 2,
    ]
    return [p, q, p * p, q * q, p * q, *angles, *squares]


def _changes(derivatives: Derivatives) -> list[Float[Array, "K D"]]:
    """The derivatives as changes over the last step: in float32, s^2 of short steps overflows."""
    dt = derivatives.dt[:, None]
    return [z * dt**k for k, z in enumerate(derivatives[:4])]


def _ratio(above: Float[Array, " K"], below: Float[Array, " K"]) -> Float[Array, " K"]:
    """above / below; infinite where `below` is 0, since nothing changes there."""
    changes = below != 0
    return jnp.where(changes, above / jnp.where(changes, below, 1.0), jnp.inf)


class Named(NamedTuple):
    """A criterion as the command line knows it.

    Attributes:
        make: eta -> criterion.
        eta: by default.
    """

    make: Callable[[Number], Criterion]
    eta: float


BY_NAME = {"aarseth": Named(Aarseth, 0.02), "fitted": Named(Fitted, 0.02)}


def by_name(name: str, eta: Number | None = None) -> Criterion:
    """The criterion with this name on the command line."""
    named = BY_NAME[name]
    return named.make(named.eta if eta is None else eta)
