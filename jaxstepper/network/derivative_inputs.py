"""What a learned criterion sees of a body: how its force changes, without units."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import safe_norm
from jaxstepper.stepping.criteria import Derivatives

DERIVATIVE_INPUTS = 7
# Inputs are kept to this range either way, since derivatives may be lost in rounding.
MOST_INPUT = 3.0
# Squared speeds are softened by this part of the mean.
LEAST_SPEED = 0.02
# log(|a| T / V) at which the depth is 0; for most bodies of a cluster it is negative.
SHALLOW = -1.5


def derivative_inputs(derivatives: Derivatives, time: Float[Array, " K"]) -> Float[Array, "K F"]:
    """Numbers `[K, F]` on the motion of K bodies, without units and about the barycentre.

    With acceleration a, jerk j, snap s, crackle c, velocity v, mean speed V, last step h, and the
    `time` T of Aarseth's criterion for eta = 1, they are

        log(sqrt(|a| / |s|) / T) and log((|a| / |c|)^(1/3) / T), other times of change;
        log sqrt(v^2 / V^2 + 0.02), the speed, which energy errors go as;
        tanh(log(|a| T / V) + 1.5), the depth of an encounter: how much velocity it changes;
        h j.s / j^2 and h s.c / s^2, the growth of jerk and snap in a step;
        (v.c)^2 / (v^2 c^2), whether errors are along the velocity, where they do work.
    """
    d, h = derivatives, derivatives.dt
    known = (d.acceleration, d.jerk, d.snap, d.crackle)
    # Changes over the last step, which overflow less.
    _, jerk, snap, crackle = changes = [z * h[:, None] ** k for k, z in enumerate(known)]
    a, j, s, c = (safe_norm(z) for z in changes)
    time = jnp.where(jnp.isfinite(time), time, h)  # nothing changes; any will do
    steps, v = time / h, safe_norm(d.velocity)
    inputs = [
        log_ratio(a, s * steps**2) / 2,
        log_ratio(a, c * steps**3) / 3,
        jnp.log(ratio(v, d.speed) ** 2 + LEAST_SPEED) / 2,
        jnp.tanh(log_ratio(a * time, d.speed) - SHALLOW),
        ratio(_dot(jerk, snap), j**2),
        ratio(_dot(snap, crackle), s**2),
        ratio(_dot(d.velocity, crackle) ** 2, (v * c) ** 2),
    ]
    return jnp.clip(jnp.stack(inputs, axis=-1), -MOST_INPUT, MOST_INPUT)


def ratio(above: Float[Array, " K"], below: Float[Array, "*K"]) -> Float[Array, " K"]:
    """above / below; 0 where `below` is 0."""
    there = below > 0
    return jnp.where(there, above / jnp.where(there, below, 1.0), 0.0)


def log_ratio(above: Float[Array, " K"], below: Float[Array, "*K"]) -> Float[Array, " K"]:
    """log(above / below), kept to 3 times the range of inputs; 0 for 0 / 0."""
    least = np.exp(-3 * MOST_INPUT)
    above, below = jnp.maximum(above, least * below), jnp.maximum(below, least * above)
    return jnp.log(jnp.where(below > 0, ratio(above, below), 1.0))


def _dot(x: Float[Array, "K D"], y: Float[Array, "K D"]) -> Float[Array, " K"]:
    return jnp.sum(x * y, axis=-1)
