"""The step-size rules of the literature. Units: G = 1.

h is the step, r, v, a the relative position, velocity and acceleration of a pair, and mu the sum of
its two masses. Distances are softened as the force is: r^2 becomes r^2 + softening^2. No rule costs
an evaluation of accelerations.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.physics.diagnostics import kinetic_energy
from jaxstepper.physics.gravity import Gravity, safe_norm
from jaxstepper.physics.integrators import logarithmic_leapfrog
from jaxstepper.physics.pairs import Pairs, Quantity, minimum_over_pairs, sum_over_pairs
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.controller import Controller, Memory, as_pytree, fixed, no_memory

Eta = Float[Array, ""] | float


def acceleration(eta: Eta, softening: Float[Array, ""] | float) -> Controller:
    """h = eta sqrt(softening / max a), with the acceleration a of each body.

    Source: Springel 2005 (GADGET-2).

    Raises:
        UserError: the softening is 0, and so would be h.
    """
    if isinstance(softening, int | float) and softening <= 0:
        raise UserError(
            "the acceleration rule, eta sqrt(softening / a), needs a softening > 0; "
            "distance-over-acceleration needs none"
        )
    return Controller(no_memory, Partial(_acceleration_step, eta, softening))


def _acceleration_step(
    eta: Eta, softening: Eta, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    largest = jnp.max(safe_norm(particles.acceleration))
    return _like_time(eta * jnp.sqrt(softening / largest), particles), memory


def distance_over_acceleration(eta: Eta, softening: Eta = 0.0) -> Controller:
    """h = eta min sqrt(r / a) over pairs, with their relative acceleration a."""
    return _smallest(_root_of_distance_over_acceleration, eta, softening)


def free_fall(eta: Eta, softening: Eta = 0.0) -> Controller:
    """h = eta min sqrt(r^3 / mu) over pairs."""
    return _smallest(_free_fall_time, eta, softening)


def power_law(eta: Eta, power: Float[Array, ""] | float = 1.5, softening: Eta = 0.0) -> Controller:
    """h = eta min r^power over pairs."""
    return _smallest(Partial(_power_of_distance, power), eta, softening)


def huayno(eta: Eta, softening: Eta = 0.0) -> Controller:
    """The smallest time scale of any pair, looked up half a step ahead.

    t1 = eta sqrt(r^3 / (2 mu)) and t2 = eta r / v, with their rates of change d1 and d2;
    h = min t / (1 - min(d, 1) / 2) over both and over pairs. This makes the steps of approach and
    recession nearly alike. Source: Pelupessy, Janes & Portegies Zwart 2012 (HUAYNO).
    """
    return Controller(
        no_memory,
        Partial(_huayno_step, eta, softening),
        irreversible="HUAYNO predicts along the velocities, so that dt changes when they reverse",
        rescaled=Partial(_rescaled_huayno, eta, softening),
    )


def hairer_soderlind(eta: Eta, softening: Eta = 0.0) -> Controller:
    """h = eta / rho, where rho follows Q = sqrt(sum mu / r^3) over pairs reversibly.

    At every state rho <- rho + eta d(ln Q)/dt; the first rho is half such a step ahead of Q.
    Source: Hairer & Soderlind 2005, with the density Q of the shortest free-fall times.
    """
    return Controller(
        Partial(_hairer_soderlind_init, eta, softening),
        Partial(_hairer_soderlind_step, eta, softening),
        irreversible="Hairer and Soderlind's rule is reversible as it is",
        rescaled=Partial(_rescaled_hairer_soderlind, eta, softening),
    )


def logarithmic_hamiltonian(eta: Eta, gravity: Gravity) -> Controller:
    """Steps of constant size h in the transformed time of the logarithmic Hamiltonian.

    h = eta sqrt(C^3 / (M U)) at the start, with C = sum m_i m_j over pairs, M the total mass and -U
    the potential energy; the first dt is about eta sqrt(R^3 / M) at the mean distance R = C / U.
    It comes with its own integrator, `logarithmic_leapfrog`. A last step that is to end at a given
    time is shortened to first order, and may end a little beyond it.
    """
    return Controller(
        Partial(_logarithmic_init, eta, gravity),
        _logarithmic_step,
        irreversible="the logarithmic Hamiltonian's leapfrog is reversible as it is",
        take_step=_take_logarithmic_step,
    )


class NamedRule(NamedTuple):
    """A rule as the command line knows it.

    Attributes:
        eta: what to use if nothing is said; an error of some 1e-3 on eccentric orbits.
        make: (eta, gravity) -> the rule.
    """

    eta: float
    make: Callable[[Eta, Gravity], Controller]


BY_NAME = {
    "fixed": NamedRule(0.01, lambda eta, gravity: fixed(eta)),
    "acceleration": NamedRule(0.1, lambda eta, gravity: acceleration(eta, gravity.softening)),
    "distance-over-acceleration": NamedRule(
        0.01, lambda eta, gravity: distance_over_acceleration(eta, gravity.softening)
    ),
    "free-fall": NamedRule(0.01, lambda eta, gravity: free_fall(eta, gravity.softening)),
    "huayno": NamedRule(0.02, lambda eta, gravity: huayno(eta, gravity.softening)),
    "hairer-soderlind": NamedRule(
        0.01, lambda eta, gravity: hairer_soderlind(eta, gravity.softening)
    ),
    "logarithmic-hamiltonian": NamedRule(0.02, logarithmic_hamiltonian),
}
POWER_LAW_ETA = 0.01


def by_name(name: str, gravity: Gravity, eta: Eta | None = None, power: float = 1.5) -> Controller:
    """The rule that the command line calls so; `power` is of power-law alone.

    Raises:
        UserError: the rule cannot run with this gravity.
    """
    if name == "power-law":
        return power_law(POWER_LAW_ETA if eta is None else eta, power, gravity.softening)
    named = BY_NAME[name]
    return named.make(named.eta if eta is None else eta, gravity)


# --- the smallest of a quantity over pairs -------------------------------------------------------


def _smallest(quantity: Quantity, eta: Eta, softening: Eta) -> Controller:
    return Controller(no_memory, Partial(_smallest_step, as_pytree(quantity), eta, softening))


def _smallest_step(
    quantity: Quantity, eta: Eta, softening: Eta, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    h = eta * minimum_over_pairs(quantity, particles, softening)
    return _like_time(h, particles), memory


def _root_of_distance_over_acceleration(pairs: Pairs) -> Array:
    return jnp.sqrt(pairs.distance / pairs.acceleration)


def _free_fall_time(pairs: Pairs) -> Array:
    return jnp.sqrt(pairs.distance**3 / pairs.mu)


def _power_of_distance(power: Eta, pairs: Pairs) -> Array:
    return pairs.distance**power


# --- HUAYNO --------------------------------------------------------------------------------------


def _huayno_step(
    eta: Eta, softening: Eta, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    h = minimum_over_pairs(Partial(_huayno_time, eta), particles, softening)
    return _like_time(h, particles), memory


def _huayno_time(eta: Eta, pairs: Pairs) -> Array:
    r, mu, v = pairs.distance, pairs.mu, pairs.speed
    approach = pairs.r_dot_v / r**2
    t1 = eta * jnp.sqrt(r**3 / (2 * mu))
    d1 = 1.5 * t1 * approach
    # 1 stands for a speed of 0, whose t2 is infinite; it keeps NaN out of the gradient.
    moving = v > 0
    speed = jnp.where(moving, v, 1.0)
    t2 = eta * r / speed
    d2 = t2 * approach * (1 + mu / (speed**2 * r))
    h2 = jnp.where(moving, _half_a_step_ahead(t2, d2), jnp.inf)
    return jnp.minimum(_half_a_step_ahead(t1, d1), h2)


def _half_a_step_ahead(t: Array, rate: Array) -> Array:
    return t / (1 - 0.5 * jnp.minimum(rate, 1))


def _rescaled_huayno(eta: Eta, softening: Eta, factor: Eta) -> Controller:
    return huayno(factor * eta, softening)


# --- Hairer and Soderlind ------------------------------------------------------------------------


def _hairer_soderlind_init(eta: Eta, softening: Eta, particles: Particles) -> Memory:
    square, slope = _density(softening, particles)
    return _like_time(jnp.sqrt(square) - 0.5 * eta * slope, particles)


def _hairer_soderlind_step(
    eta: Eta, softening: Eta, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    _, slope = _density(softening, particles)
    rho = _like_time(memory + eta * slope, particles)
    return _like_time(eta / rho, particles), rho


def _density(softening: Eta, particles: Particles) -> tuple[Array, Array]:
    """Q^2 = sum mu / r^3, and d(ln Q)/dt."""
    square = sum_over_pairs(_tide, particles, softening)
    rate = sum_over_pairs(_rate_of_tide, particles, softening)
    return square, 0.5 * rate / square


def _tide(pairs: Pairs) -> Array:
    return pairs.mu / pairs.distance**3


def _rate_of_tide(pairs: Pairs) -> Array:
    return -3 * pairs.mu * pairs.r_dot_v / pairs.distance**5


def _rescaled_hairer_soderlind(eta: Eta, softening: Eta, factor: Eta) -> Controller:
    return hairer_soderlind(factor * eta, softening)


# --- the logarithmic Hamiltonian -----------------------------------------------------------------


def _logarithmic_init(eta: Eta, gravity: Gravity, particles: Particles) -> Memory:
    p = particles
    total = jnp.sum(p.mass)
    pairs = 0.5 * (total**2 - jnp.sum(p.mass**2))
    potential = gravity.potential_energy(p.position, p.mass, p.time)
    h = _like_time(eta * jnp.sqrt(pairs**3 / (-potential * total)), p)
    return h, -(kinetic_energy(p) + potential)


def _logarithmic_step(memory: Memory, particles: Particles) -> tuple[Array, Memory]:
    h, binding = memory
    return h / (kinetic_energy(particles) + binding), memory


def _take_logarithmic_step(
    memory: Memory, particles: Particles, dt: Float[Array, ""], gravity: Gravity
) -> Particles:
    _, binding = memory
    return logarithmic_leapfrog(particles, dt, binding, gravity)


def _like_time(value: Array, particles: Particles) -> Array:
    """In the dtype of the state, whatever that of eta."""
    return value.astype(particles.time.dtype)
