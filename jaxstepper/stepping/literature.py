"""The step-size rules of the literature.

Where G is not 1, rules see masses G m (`rollout`), and so G = 1.

h is the step; r, v and a are the relative position, velocity and acceleration of a pair, and mu is
the sum of its two masses. Distances are softened as the force is: r^2 becomes r^2 + softening^2. No
rule but the logarithmic Hamiltonian evaluates accelerations.

With an external field (`external=gravity.external`) h is at most eta / w, where w is the rate of
the field at the body for which it is largest (`field_rate`).
"""

from collections.abc import Callable
from dataclasses import field, replace
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.errors import UserError, require
from jaxstepper.physics.fast_roots import inverse_root
from jaxstepper.physics.field_rate import squared_rate_and_slope
from jaxstepper.physics.gravity import Gravity, safe_norm, safe_sqrt
from jaxstepper.physics.pairs import (
    Pairs,
    Quantity,
    largest_free_fall_rate,
    maximum_over_pairs,
    minimum_over_pairs,
    sum_over_pairs,
)
from jaxstepper.physics.particles import Particles
from jaxstepper.physics.reductions import LARGEST_SQUARE
from jaxstepper.stepping.field_rule import FieldRule, check_pairs
from jaxstepper.stepping.rule import STATIC, Fixed, Memory, Number, Rule
from jaxstepper.stepping.scheme import Fallen, Logarithmic, Scheme


class Acceleration(FieldRule):
    """h = eta sqrt(softening / max a), with the acceleration a of each body.

    Source: Springel 2005 (GADGET-2).

    Raises:
        UserError: the softening is 0, which would make h 0.
    """

    eta: Number
    softening: Number

    def __post_init__(self) -> None:
        if isinstance(self.softening, int | float) and self.softening <= 0:
            raise UserError(
                "the acceleration rule, eta sqrt(softening / a), needs a softening > 0; "
                "distance-over-acceleration needs none"
            )

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        largest = jnp.max(safe_norm(particles.acceleration))
        h = self.eta * jnp.sqrt(self.softening / largest)
        return self.shortened(h, self.eta, particles), memory


class DistanceOverAcceleration(FieldRule):
    """h = eta min sqrt(r / a) over pairs, with their relative acceleration a."""

    eta: Number
    softening: Number = 0.0

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        smallest = minimum_over_pairs(
            lambda pairs: jnp.sqrt(pairs.distance / pairs.acceleration), particles, self.softening
        )
        return self.shortened(self.eta * smallest, self.eta, particles), memory


class FreeFall(FieldRule):
    """h = eta min sqrt(r^3 / mu) over pairs.

    Schemes find the smallest on the way, if the softening is that of the force.
    """

    eta: Number
    softening: Number = 0.0

    falls = LARGEST_SQUARE

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        h = self.eta / self._largest_rate(memory, particles)
        return self.shortened(h, self.eta, particles), ()

    def _largest_rate(self, known: Memory, particles: Particles) -> Float[Array, ""]:
        def anew() -> Array:
            return largest_free_fall_rate(particles, self.softening)

        if not isinstance(known, Fallen):
            return anew()
        return lax.cond(
            jnp.asarray(self.softening == known.softening),
            lambda: safe_sqrt(jnp.max(known.of_bodies)),
            anew,
        )


class PowerLaw(FieldRule):
    """h = eta min r^power over pairs."""

    eta: Number
    power: Number = 1.5
    softening: Number = 0.0

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        smallest = minimum_over_pairs(
            lambda pairs: pairs.distance**self.power, particles, self.softening
        )
        return self.shortened(self.eta * smallest, self.eta, particles), memory


class Huayno(FieldRule):
    """The smallest time scale of any pair, extrapolated half a step ahead.

    t1 = eta sqrt(r^3 / (2 mu)) and t2 = eta r / v change at the rates d1 and d2;
    h = min t / (1 - min(d, 1) / 2) over both and over pairs. This makes the steps of approach and
    recession nearly alike. Source: Pelupessy, Janes & Portegies Zwart 2012 (HUAYNO).
    """

    eta: Number
    softening: Number = 0.0

    irreversible = "HUAYNO predicts along the velocities, so that dt changes when they reverse"

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        h = 1 / maximum_over_pairs(partial(huayno_rate, self.eta), particles, self.softening)
        return self.shortened(h, self.eta, particles), memory

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, eta=factor * self.eta)


def huayno_rate(eta: Number, pairs: Pairs) -> Array:
    """1 / h of every pair, the larger of (1 - min(d, 1) / 2) / t for both times of `Huayno`.

    Infinite for two bodies in the same place.
    """
    inverse = inverse_root(pairs.distance_squared)
    inverse_squared = inverse * inverse
    approach = pairs.r_dot_v * inverse_squared
    # The squares of the rates of free fall and passage. 1 stands for a speed of 0, which keeps NaN
    # out of the gradient.
    fall = pairs.mu * inverse_squared * inverse
    moving = pairs.speed_squared > 0
    passage = jnp.where(moving, pairs.speed_squared, 1.0) * inverse_squared
    ahead = _half_a_step_ahead(jnp.sqrt(2 * fall) / eta, 1.5 * approach)
    passing = _half_a_step_ahead(jnp.sqrt(passage) / eta, approach * (1 + fall / passage))
    rate = jnp.maximum(ahead, jnp.where(moving, passing, 0.0))
    return jnp.where(pairs.distance_squared > 0, rate, jnp.inf)


def _half_a_step_ahead(rate: Array, slope: Array) -> Array:
    """1 / h of a time t, given 1 / t and d / t."""
    return rate - 0.5 * jnp.minimum(slope, rate)


class HairerSoderlind(FieldRule):
    """h = eta / rho, where rho follows Q = sqrt(sum mu / r^3) over pairs reversibly.

    At every state rho <- rho + eta d(ln Q)/dt; the first rho lies half such a step ahead of Q.
    Source: Hairer & Soderlind 2005. The density Q is that of the shortest free-fall times.
    """

    eta: Number
    softening: Number = 0.0

    irreversible = "Hairer and Soderlind's rule is reversible as it is"
    reversible = True

    def init(self, particles: Particles, /) -> Memory:
        density, slope = self._density(particles)
        return _like_time(density - 0.5 * self.eta * slope, particles)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        _, slope = self._density(particles)
        rho = _like_time(memory + self.eta * slope, particles)
        return _like_time(self.eta / rho, particles), rho

    def _density(self, particles: Particles) -> tuple[Array, Array]:
        """Q, with Q^2 = sum mu / r^3, to which a field adds the w^2 of every body; d(ln Q)/dt."""
        check_pairs(self.external, particles)
        # Distances relative to the system's, or their powers would be no numbers in some units.
        size = lax.stop_gradient(jnp.max(jnp.abs(particles.position - particles.position[0])))
        size = jnp.where(size > 0, size, 1.0)

        def total(quantity: Quantity) -> Array:
            return sum_over_pairs(quantity, particles, self.softening)

        def pull(pairs: Pairs) -> Array:
            return pairs.mu * (size / pairs.distance) ** 3

        square = total(pull)
        rate = -1.5 * total(lambda pairs: pull(pairs) * (pairs.r_dot_v / pairs.distance_squared))
        slope = _ratio(rate, square)
        density = safe_sqrt(square / size) / size
        if self.external is None:
            return density, slope
        of_field, its_slope = squared_rate_and_slope(self.external, particles)
        square = density**2
        slope = _ratio(square * slope + 0.5 * its_slope, square + of_field)
        return safe_sqrt(square + of_field), slope

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, eta=factor * self.eta)


class LogarithmicHamiltonian(Rule):
    """Steps of constant size h in the transformed time of the logarithmic Hamiltonian.

    The first dt, h / U, is eta sqrt(R^3 / M) or less. C = sum m_i m_j over pairs, M is the total
    mass, -U the potential energy and R = C / U the mean distance. dt follows U, and so the pairs
    that dominate it, but not a planet, whose share of U is small. h is therefore also so small that
    every pair, at its pericentre too, has steps as short as it would have alone.

    h counts a transformed time, which only the scheme `Logarithmic` knows; it is the rule's own.
    """

    eta: Number
    gravity: Gravity = field(metadata=STATIC)

    scheme = Logarithmic()
    irreversible = "the logarithmic Hamiltonian's leapfrog is reversible as it is"
    reversible = True

    def __post_init__(self) -> None:
        if self.gravity.external is not None:
            raise UserError(
                "logarithmic-hamiltonian does not see an external field; use free-fall or huayno"
            )

    def init(self, particles: Particles, /) -> Memory:
        p = particles
        # The masses are G m, so that energies, and h with them, come G times as large.
        potential = replace(self.gravity, G=1.0).potential_energy(p.position, p.mass, p.time)
        # Sums of positive terms: M^2 - sum m^2 would cancel.
        pairs = jnp.sum(p.mass[1:] * jnp.cumsum(p.mass)[:-1])
        whole = jnp.sqrt(pairs / jnp.sum(p.mass)) * pairs / jnp.sqrt(-potential)
        fastest = minimum_over_pairs(partial(self._pair_step, -potential), p, self._softening)
        h = self.eta * jnp.minimum(whole, fastest)
        return _like_time(h if self.gravity.G == 1 else h / self.gravity.G, p)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        return memory, memory

    def on(self, scheme: Scheme, /) -> Rule:
        if scheme != self.scheme:
            raise UserError(
                "logarithmic-hamiltonian chooses steps of a transformed time, which only the "
                "scheme logarithmic takes"
            )
        return self

    def check_masses(self, mass: Float[np.ndarray, "*B N"], /) -> None:
        require(
            bool(np.all(np.count_nonzero(mass, axis=-1) > 1)),
            "logarithmic-hamiltonian needs two bodies with a mass: beside a single one, the energy "
            "it divides by is 0; use free-fall or huayno",
        )

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, eta=factor * self.eta)

    @property
    def _softening(self) -> float:
        return self.gravity.softening

    def _pair_step(self, potential: Array, pairs: Pairs) -> Array:
        """h / eta of a pair m1, m2 among others: sqrt(r / mu) (m1 m2 + (U - m1 m2 / r) q).

        Alone, the pair would take h = sqrt(r / mu) m1 m2, and dt = h r / (m1 m2) at a distance r.
        The others' share of U, which stays when the pair draws together, makes dt h / U at its
        pericentre q no longer than that. Unbound pairs pass at r, within the time sqrt(2) r / v.
        """
        r, mu, v = pairs.distance, pairs.mu, pairs.speed
        bound = v**2 * r < 2 * mu
        # 1 stands for speeds of 0, which keeps NaN out of the gradient.
        passage = jnp.where(bound, jnp.inf, jnp.sqrt(2.0) / jnp.where(bound, 1.0, v))
        pull = jnp.where(mu > 0, mu, 1.0)
        semilatus = (r**2 * v**2 - pairs.r_dot_v**2) / pull
        eccentricity = safe_sqrt(1 + semilatus * (v**2 / pull - 2 / r))
        pericentre = jnp.clip(semilatus / (1 + eccentricity), self._softening, r)
        q = jnp.where(bound, pericentre, r)
        others = jnp.maximum(potential - pairs.product / r, 0.0)
        alone = jnp.minimum(safe_sqrt(r / pull), passage)
        return jnp.where(mu > 0, alone * (pairs.product + others * q), jnp.inf)


def _ratio(above: Array, below: Array) -> Array:
    """above / below, and 0 where `below` is."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), 0.0)


def _like_time(value: Array, particles: Particles) -> Array:
    """The value in the dtype of the state, whatever that of eta."""
    return value.astype(particles.time.dtype)


acceleration = Acceleration
distance_over_acceleration = DistanceOverAcceleration
free_fall = FreeFall
power_law = PowerLaw
huayno = Huayno
hairer_soderlind = HairerSoderlind
logarithmic_hamiltonian = LogarithmicHamiltonian


class NamedRule(NamedTuple):
    """A rule as the command line knows it.

    Attributes:
        eta: the default; it leaves an error of some 1e-3 on eccentric orbits.
        make: (eta, gravity) -> the rule.
    """

    eta: float
    make: Callable[[Number, Gravity], Rule]


def _in_gravity(kind: Callable[..., Rule]) -> Callable[[Number, Gravity], Rule]:
    return lambda eta, gravity: kind(eta, gravity.softening, external=gravity.external)


BY_NAME = {
    "fixed": NamedRule(0.01, lambda eta, gravity: Fixed(eta)),
    "acceleration": NamedRule(0.1, _in_gravity(Acceleration)),
    "distance-over-acceleration": NamedRule(0.01, _in_gravity(DistanceOverAcceleration)),
    "free-fall": NamedRule(0.01, _in_gravity(FreeFall)),
    "huayno": NamedRule(0.02, _in_gravity(Huayno)),
    "hairer-soderlind": NamedRule(0.01, _in_gravity(HairerSoderlind)),
    "logarithmic-hamiltonian": NamedRule(0.02, LogarithmicHamiltonian),
}
POWER_LAW_ETA = 0.01


def by_name(name: str, gravity: Gravity, eta: Number | None = None, power: float = 1.5) -> Rule:
    """The rule with this name on the command line; only power-law uses `power`.

    Raises:
        UserError: the rule cannot run with this gravity.
    """
    if name == "power-law":
        eta = POWER_LAW_ETA if eta is None else eta
        return PowerLaw(eta, power, gravity.softening, external=gravity.external)
    named = BY_NAME[name]
    return named.make(named.eta if eta is None else eta, gravity)
