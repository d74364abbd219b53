"""A trial step: its energy error, the gate that it must pass, and the loss that moves its dt."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.physics.diagnostics import internal_energy, reference_energy, relative_energy_error
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.integrators import leapfrog
from jaxstepper.physics.particles import Particles

# Keeps the logarithm of an error of 0 finite.
EPS = 1e-12


@dataclass(frozen=True)
class Gate:
    """The requirements on a trial step of `num_steps` leapfrog steps with one dt.

    Attributes:
        num_steps: leapfrog steps in a trial step.
        threshold: a step with a smaller relative energy error is safe.
        lower: lower edge of the band of relative energy errors that the loss aims at.
        upper: upper edge of the band.
        two_sided: whether steps are also judged for waste. A step is wasteful if its error stays
            far below the band after every leapfrog step. The error at its end alone does not tell:
            where a path turns back on itself, as at pericentre, it cancels for every dt.
        monotone: whether an error above the band always asks for a smaller dt, and waste for a
            larger one. For steps so large that bodies are flung apart, the error is not monotone in
            dt, and its slope may have the wrong sign. Where a leapfrog is regular, its error grows
            at least as dt^2, so d(loss)/d(ln dt) is kept at or beyond its value for error ~ dt^2.
    """

    num_steps: int = 10
    threshold: float = 2e-4
    lower: float = 1e-6
    upper: float = 1e-4
    two_sided: bool = False
    monotone: bool = True

    @property
    def waste_threshold(self) -> float:
        """As far below the band, as a ratio, as `threshold` is above it; the loss can reach it."""
        return self.lower * min(self.upper / self.threshold, 1.0)


class Trial(NamedTuple):
    """The outcome of a trial step.

    Attributes:
        particles: the state after the step.
        error: `[]`, relative energy error; may not be finite.
        loss: `[]`, distance from the band; finite.
        slope: `[]`, d(loss)/d(dt); finite.
        safe: `[]`, whether the error is below the threshold.
        wasteful: `[]`, whether the gate is two-sided and dt could be larger.
    """

    particles: Particles
    error: Float[Array, "*B"]
    loss: Float[Array, "*B"]
    slope: Float[Array, "*B"]
    safe: Bool[Array, "*B"]
    wasteful: Bool[Array, "*B"]


def band_loss(
    error: Float[Array, "..."], peak: Float[Array, "..."], lower: float, upper: float
) -> Float[Array, "..."]:
    """max(log lower - log peak, 0)^2 + max(log error - log upper, 0)^2.

    `peak` is the error itself, or the largest on the way. An error that is not finite counts as 1.
    """
    above = jnp.maximum(_log(error) - jnp.log(upper), 0.0)
    below = jnp.maximum(jnp.log(lower) - _log(peak), 0.0)
    return below**2 + above**2


def _log(error: Array) -> Array:
    return jnp.log(jnp.where(jnp.isfinite(error), error, 1.0) + EPS)


def try_step(gate: Gate, gravity: Gravity, particles: Particles, dt: Float[Array, ""]) -> Trial:
    """Takes a trial step of `dt` from a state, and judges it.

    The loss depends on the network only through dt, so its derivative is taken forwards, along with
    the step. The chain rule through the network is left to the caller.
    """
    initial = reference_energy(particles, gravity)

    def error_of(state: Particles) -> Array:
        return relative_energy_error(internal_energy(state, gravity), initial)

    def outcome(dt: Array) -> tuple[Array, tuple[Particles, Array, Array]]:
        def substep(_: Array | int, carry: tuple[Particles, Array]) -> tuple[Particles, Array]:
            state, peak = carry
            state = leapfrog(state, dt, gravity.acceleration)
            return state, jnp.maximum(peak, error_of(state)) if gate.two_sided else peak

        start = (particles, jnp.zeros_like(initial.value))
        stepped, peak = lax.fori_loop(0, gate.num_steps, substep, start)
        error = error_of(stepped)
        peak = peak if gate.two_sided else error
        return band_loss(error, peak, gate.lower, gate.upper), (stepped, error, peak)

    loss, slope, (stepped, error, peak) = jax.jvp(
        outcome, (dt,), (jnp.ones_like(dt),), has_aux=True
    )
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if gate.monotone:
        # loss = (log distance)^2, so d(loss)/d(ln dt) = 2 order sqrt(loss) away from the band.
        regular = 2 * 2 * jnp.sqrt(loss) / dt
        above = ~(error < gate.upper)
        slope = jnp.where(above, jnp.maximum(slope, regular), jnp.minimum(slope, -regular))
    safe = error < gate.threshold
    wasteful = safe & (peak < gate.waste_threshold) if gate.two_sided else jnp.zeros_like(safe)
    return Trial(stepped, error, loss, slope, safe, wasteful)


def try_steps(gate: Gate, gravity: Gravity, particles: Particles, dt: Float[Array, " B"]) -> Trial:
    """`try_step` for a batch of states `[B]`, each with its own dt."""
    return jax.vmap(lambda *one: try_step(gate, gravity, *one))(particles, dt)
