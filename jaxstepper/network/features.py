"""From a state and the window of states before it to the input of the network.

The torch system has three kinds: `basic` (11 numbers a state), `rich` (23 a state), and `delta_mag`
(10 for each of the K consecutive pairs of a window). `basic` and `rich` hold only magnitudes, so
they do not change when velocities are reversed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.errors import require
from jaxstepper.network.derivative_inputs import DERIVATIVE_INPUTS
from jaxstepper.network.history import History, append
from jaxstepper.network.learned_shares import SHARE_INPUTS
from jaxstepper.network.orbital_inputs import ORBITAL_INPUTS, SURROUNDINGS
from jaxstepper.network.pair_inputs import PAIR_INPUTS
from jaxstepper.physics.gravity import Gravity, for_each_body, safe_norm, self_acceleration
from jaxstepper.physics.particles import Particles

EPS = 1e-12
# `delta_mag` softens accelerations at least this much.
DELTA_SOFTENING = 1e-6
# Up to this many bodies all pair distances are in memory at once.
ALL_PAIRS_UP_TO = 64


# The inputs of networks of a few weights, and how many these are.
FEW_WEIGHTS = {"derivatives": DERIVATIVE_INPUTS, "pairs": PAIR_INPUTS, "shares": SHARE_INPUTS}


@dataclass(frozen=True)
class Scales:
    """The units of the features: length L0, speed V0, acceleration A0, time T0.

    They are numbers, or arrays `[]` in a program that trains several networks at once.
    """

    length: float | Array = 1.0
    speed: float | Array = 1.0
    acceleration: float | Array = 1.0
    time: float | Array = 1.0


@dataclass(frozen=True)
class FeatureSpec:
    """Which features, of how many states, in which units.

    Attributes:
        kind: "basic", "rich" or "delta_mag" (which means "basic" without a history); or
            "orbital", "eccentric" or "encounters", the inputs of an `OrbitalRule`, which computes
            them itself; or "derivatives", "pairs" and "shares", those of a `LearnedCriterion`, a
            `PairRule` and a `ShareRule`, likewise.
        history_len: K, the number of past states in the window.
        softening: softening length of the accelerations and pair distances.
        scales: units of the features.
        tolerances: the smallest and the largest that an `OrbitalRule` was trained with.
        fastest: how many bodies of many an `OrbitalRule` of encounters looks at; 0 for all.
    """

    kind: str = "basic"
    history_len: int = 0
    softening: float = 0.0
    scales: Scales = Scales()
    tolerances: tuple[float, float] = (1e-3, 3e-2)
    fastest: int = 0

    @property
    def is_delta(self) -> bool:
        return self.kind == "delta_mag" and self.history_len > 0

    @property
    def is_native(self) -> bool:
        """Whether the features are free of scale; the torch simulator does not have them."""
        return self.kind in ("orbital", "eccentric", "encounters", *FEW_WEIGHTS)

    @property
    def size(self) -> int:
        """Length F of the input vector."""
        if self.kind in FEW_WEIGHTS:
            return FEW_WEIGHTS[self.kind]
        if self.is_native:
            return ORBITAL_INPUTS + (SURROUNDINGS if self.kind == "encounters" else 0) + 1
        if self.is_delta:
            return 10 * self.history_len
        return (23 if self.kind == "rich" else 11) * (self.history_len + 1)

    @property
    def acceleration_softening(self) -> float:
        """Softening of the accelerations that the features see."""
        return (self.softening or DELTA_SOFTENING) if self.is_delta else self.softening


def reuses_acceleration(spec: FeatureSpec, gravity: Gravity) -> bool:
    """Whether the features need the acceleration that a state has; else `observe` evaluates it."""
    return gravity.external is None and spec.acceleration_softening == gravity.softening


def observe(spec: FeatureSpec, gravity: Gravity, particles: Particles) -> Particles:
    """The state as the features see it: its acceleration without an external field."""
    if reuses_acceleration(spec, gravity):
        return particles
    softening = spec.acceleration_softening
    own = self_acceleration(particles.position, particles.mass, softening)
    return particles.replace(acceleration=own)


def network_input(spec: FeatureSpec, history: History, observed: Particles) -> Float[Array, " F"]:
    """The input vector `[F]` for an observed state and the K observed states before it."""
    window = append(history, observed)
    if spec.is_delta:
        return _delta_mag(window, spec.scales).reshape(-1)
    one_state = _rich if spec.kind == "rich" else _basic

    def features(x: Array, v: Array, a: Array) -> Array:
        return one_state(observed.mass, x, v, a, spec)

    return jax.vmap(features)(window.position, window.velocity, window.acceleration).reshape(-1)


def automatic_scales(particles: Particles, softening: float) -> Scales:
    """Scales of an initial state, or their means over a batch of initial states.

    L0 is the mean pair distance (the rms radius if that is 0), V0 and A0 are the rms speed and
    acceleration, and T0 = L0 / V0.
    """
    length, speed, acceleration = map(float, _mean_scales(particles, softening))
    return Scales(length, speed, acceleration, length / speed)


@partial(jax.jit, static_argnums=1)
def _mean_scales(particles: Particles, softening: float) -> list[Array]:
    """L0, V0 and A0."""

    def of_system(p: Particles) -> tuple[Array, Array, Array]:
        r, s = _radii_and_speeds(p.mass, p.position, p.velocity)
        _, _, mean = _pair_distances(p.position, softening)
        g = safe_norm(self_acceleration(p.position, p.mass, softening))
        return jnp.where(mean > EPS, mean, _rms(r)), _rms(s), _rms(g)

    one = particles.position.ndim == 2
    scales = of_system(particles) if one else jax.vmap(of_system)(particles)
    return [jnp.mean(scale) for scale in scales]


def _basic(mass: Array, x: Array, v: Array, a: Array, spec: FeatureSpec) -> Float[Array, "11"]:
    scales = spec.scales
    r, s = _radii_and_speeds(mass, x, v)
    d_min, _, d_mean = _pair_distances(x, spec.softening)
    return jnp.stack(
        [
            *_counts(x),
            jnp.sum(mass),
            *_statistics(r, (jnp.mean, jnp.max), scales.length),
            *_statistics(s, (jnp.mean, jnp.max), scales.speed),
            *_statistics(safe_norm(a), (jnp.mean, jnp.max), scales.acceleration),
            d_min / scales.length,
            d_mean / scales.length,
        ]
    )


def _rich(mass: Array, x: Array, v: Array, a: Array, spec: FeatureSpec) -> Float[Array, "23"]:
    scales = spec.scales
    r, s = _radii_and_speeds(mass, x, v)
    d_min, d_max, d_mean = _pair_distances(x, spec.softening)
    four = (jnp.mean, jnp.min, jnp.max, _rms)
    return jnp.stack(
        [
            *_counts(x),
            jnp.sum(mass),
            *_statistics(mass, four, 1.0),
            *_statistics(r, four, scales.length),
            *_statistics(s, four, scales.speed),
            *_statistics(safe_norm(a), four, scales.acceleration),
            d_min / scales.length,
            d_mean / scales.length,
            d_max / scales.length,
            jnp.asarray(spec.softening / scales.length, x.dtype),
        ]
    )


def _delta_mag(window: History, scales: Scales) -> Float[Array, "K 10"]:
    """Mean, max and rms of |dx|, |dv| and |da| between consecutive states, and the later dt."""

    def change(z: Float[Array, "K1 N D"], unit: float | Array) -> list[Float[Array, " K"]]:
        size = safe_norm(jnp.diff(z, axis=0)) / unit
        return [jnp.mean(size, axis=1), jnp.max(size, axis=1), jax.vmap(_rms)(size)]

    columns = [
        *change(window.position, scales.length),
        *change(window.velocity, scales.speed),
        *change(window.acceleration, scales.acceleration),
        window.dt[1:] / scales.time,
    ]
    return jnp.stack(columns, axis=1)


def _counts(x: Float[Array, "N D"]) -> list[Array]:
    return [jnp.asarray(size, x.dtype) for size in x.shape]


def _statistics(
    z: Float[Array, " N"], statistics: Sequence[Callable[[Array], Array]], unit: float | Array
) -> list[Array]:
    return [statistic(z) / unit for statistic in statistics]


def _rms(z: Float[Array, " N"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(z * z) + EPS)


def _radii_and_speeds(mass: Array, x: Array, v: Array) -> tuple[Array, Array]:
    """|x - com| and |v - vcom|, `[N]` each, about the mass-weighted means."""
    weight = mass / jnp.sum(mass)
    return safe_norm(x - weight @ x), safe_norm(v - weight @ v)


def _pair_distances(x: Float[Array, "N D"], softening: float) -> tuple[Array, Array, Array]:
    """Smallest, largest and mean softened distance over pairs."""
    count = x.shape[0]
    require(count > 1, "this network sees pairs of bodies, and there is one body; use free-fall")
    if count <= ALL_PAIRS_UP_TO:
        i, j = np.triu_indices(count, k=1)
        dx = x[j] - x[i]
        d = jnp.sqrt(jnp.sum(dx * dx, axis=-1) + softening**2 + EPS)
        return jnp.min(d), jnp.max(d), jnp.mean(d)

    def row(i: Array) -> tuple[Array, Array, Array]:
        dx = x - x[i]
        d = jnp.sqrt(jnp.sum(dx * dx, axis=-1) + softening**2 + EPS)
        others = jnp.arange(count) != i
        return (
            jnp.min(d, where=others, initial=jnp.inf),
            jnp.max(d, where=others, initial=0.0),
            jnp.sum(d, where=others),
        )

    smallest, largest, total = for_each_body(row, count)
    return jnp.min(smallest), jnp.max(largest), jnp.sum(total) / (count * (count - 1))
