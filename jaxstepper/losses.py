"""How wrong a step was: the energy error of a step, and the loss that pulls it into a band."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.diagnostics import EPS, relative_energy_error, total_energy
from jaxstepper.dynamics import Gravity
from jaxstepper.integrators import leapfrog_steps
from jaxstepper.particles import Particles


class Trial(NamedTuple):
    """What came of trying a step.

    Attributes:
        particles: the state after the step.
        error: relative energy error, `[]`; may be non-finite.
        loss: band loss, `[]`, finite.
        slope: derivative of the loss with respect to dt, `[]`, finite.
    """

    particles: Particles
    error: Float[Array, "*B"]
    loss: Float[Array, "*B"]
    slope: Float[Array, "*B"]


def band_loss(error: Float[Array, "..."], lower: float, upper: float) -> Float[Array, "..."]:
    """Squared distance of log(error) from the band [log lower, log upper].

    A non-finite error counts as 1.
    """
    error = jnp.where(jnp.isfinite(error), error, 1.0)
    log_error = jnp.log(error + EPS)
    below = jnp.maximum(jnp.log(lower) - log_error, 0.0)
    above = jnp.maximum(log_error - jnp.log(upper), 0.0)
    return below**2 + above**2


def try_step(
    particles: Particles,
    energy: Float[Array, ""],
    dt: Float[Array, ""],
    *,
    gravity: Gravity,
    num_steps: int,
    band: tuple[float, float],
    monotone: bool,
) -> Trial:
    """Takes `num_steps` leapfrog steps of one dt and weighs their relative energy error.

    The loss depends on the network through the one number dt, so its derivative is taken forwards,
    beside the step itself; the chain rule through the network is the caller's.

    Args:
        particles: one state.
        energy: its total energy, `[]`.
        dt: step size, `[]`.
        gravity: what moves the bodies.
        num_steps: leapfrog steps of this dt.
        band: lower and upper bound of the relative energy error.
        monotone: let an error above the band always ask for a smaller dt, and one below for a
            larger. At steps so large that bodies are flung apart the error is no longer monotone
            in dt, and its slope may have the wrong sign. A leapfrog's error grows at least as
            dt^2 where it is regular, so the slope is kept on that side of d(loss)/d(ln dt) for
            an error ~ dt^2.
    """

    def outcome(dt: Array) -> tuple[Array, tuple[Particles, Array]]:
        stepped = leapfrog_steps(particles, dt, num_steps, gravity.acceleration)
        error = relative_energy_error(total_energy(stepped, gravity), energy)
        return band_loss(error, *band), (stepped, error)

    loss, slope, (stepped, error) = jax.jvp(outcome, (dt,), (jnp.ones_like(dt),), has_aux=True)
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if monotone:
        # loss = (log distance)^2, so d(loss)/d(ln dt) = 2 order sqrt(loss) away from the band.
        regular = 2 * 2 * jnp.sqrt(loss) / dt
        above = ~(error < band[1])
        slope = jnp.where(above, jnp.maximum(slope, regular), jnp.minimum(slope, -regular))
    return Trial(stepped, error, loss, slope)


def try_steps(
    particles: Particles,
    energy: Float[Array, " B"],
    dt: Float[Array, " B"],
    *,
    gravity: Gravity,
    num_steps: int,
    band: tuple[float, float],
    monotone: bool,
) -> Trial:
    """`try_step` for a batch of states `[B]`, each with its own dt."""

    def one(particles: Particles, energy: Array, dt: Array) -> Trial:
        return try_step(
            particles,
            energy,
            dt,
            gravity=gravity,
            num_steps=num_steps,
            band=band,
            monotone=monotone,
        )

    return jax.vmap(one)(particles, energy, dt)
