"""The first dt of phase 1: one whose energy error lies in the band.

A fresh network says dt ~ 0.7 for every system. Such a step flings bodies apart, the energy error is
no longer monotone in dt, and it takes thousands of small optimiser steps to bring one output down
to 1e-4. But bisection finds the right first dt from the initial states alone, and setting one bias
makes the network say it. The architecture stays the same, so exported networks run everywhere.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.network.step_network import Variables
from jaxstepper.training.two_phase.gate import try_step
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.samples import Sample

# The search for dt starts at this fraction of the free-fall time, and doubles it.
SMALLEST = 2.0**-30
DOUBLINGS = 36
BISECTIONS = 20
TRIALS = DOUBLINGS + BISECTIONS


def calibrate(
    plan: Plan, variables: Variables, systems: Sample
) -> tuple[Variables, Float[Array, ""]]:
    """Sets the dt bias so that the network, on average, starts in the band.

    `systems` are the initial states `[B]`. Also returns the dt that the network then says on
    average.
    """
    wanted = jnp.mean(jnp.log(jax.vmap(lambda one: target_dt(plan, one))(systems)))
    outputs = plan.network.apply(variables, systems.inputs)
    now = jnp.mean(_inverse_softplus(outputs[:, 0]))
    first = jnp.exp(wanted)
    return plan.network.shifted(variables, _inverse_softplus(first) - now), first


def target_dt(plan: Plan, system: Sample) -> Float[Array, ""]:
    """The dt `[]` at which the error of a trial step first reaches the middle of the band.

    The error grows with dt, from rounding upwards. Doubling finds where it first becomes too large,
    and bisection refines that. Larger dt are not tried: the error is not monotone there.
    """
    p = system.particles
    middle = (plan.gate.lower * plan.gate.upper) ** 0.5

    def too_large(dt: Array) -> Array:
        return ~(try_step(plan.gate, plan.gravity, p, dt).error < middle)

    # A time scale of the system in any units: the shortest time to fall its own size.
    size = jnp.max(jnp.linalg.norm(p.position - jnp.mean(p.position, axis=0), axis=-1))
    fall = jnp.sqrt(size / jnp.max(jnp.linalg.norm(p.acceleration, axis=-1)))
    ladder = fall * SMALLEST * 2.0 ** jnp.arange(DOUBLINGS, dtype=fall.dtype)
    first = jnp.argmax(jnp.append(jax.lax.map(too_large, ladder), True))
    low = ladder[jnp.maximum(first - 1, 0)]

    def halve(_: Array | int, low_high: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = low_high
        middle_dt = jnp.sqrt(low * high)
        over = too_large(middle_dt)
        return jnp.where(over, low, middle_dt), jnp.where(over, middle_dt, high)

    low, _ = lax.fori_loop(0, BISECTIONS, halve, (low, 2 * low))
    return low


def _inverse_softplus(y: Array) -> Array:
    return y + jnp.log(-jnp.expm1(-y))
