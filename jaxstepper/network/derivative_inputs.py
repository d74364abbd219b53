"""What a learned criterion sees of a body: its motion, without units."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import safe_norm
from jaxstepper.stepping.criteria import Derivatives

DERIVATIVE_INPUTS = 9
# Inputs are kept to this range either way, since derivatives may be lost in rounding.
MOST_INPUT = 3.0
# Squared speeds are softened by this part of the mean.
LEAST_SPEED = 0.02


def derivative_inputs(derivatives: Derivatives, time: Float[Array, " K"]) -> Float[Array, "K F"]:
    """Numbers `[K, F]` on the motion of K bodies, without units and about the barycentre.

    With acceleration a, jerk j, snap s, crackle c, velocity v, mean speed V, last step h, and the
    `time` T of Aarseth's criterion for eta = 1, they are

        log(|a| / |j| / T), log(sqrt(|a| / |s|) / T), log((|a| / |c|)^(1/3) / T),
        log sqrt(v^2 / V^2 + 0.02), the speed,
        log(|a| T / V), the depth: how much the velocity changes in the time of its change,
        tanh of the depth + 1.5,
        h j.a / a^2 and h s.j / j^2, the growth of force and jerk over a step,
        (v.c)^2 / (v^2 c^2), the alignment of velocity and error.

    Derivatives that are 0 count as very small.
    """
    d, h = derivatives, derivatives.dt
    known = (d.acceleration, d.jerk, d.snap, d.crackle)
    changes = [z * h[:, None] ** k for k, z in enumerate(known)]
    a, j, s, c = (safe_norm(z) for z in changes)
    steps = time / h
    speed = safe_norm(d.velocity)
    depth = _log_ratio(a * steps * h, d.speed)
    inputs = [
        _log_ratio(a, j * steps),
        _log_ratio(a, s * steps**2) / 2,
        _log_ratio(a, c * steps**3) / 3,
        jnp.log(_ratio(speed, d.speed) ** 2 + LEAST_SPEED) / 2,
        depth,
        jnp.tanh(depth + 1.5),
        _ratio(_dot(changes[1], changes[0]), a**2),
        _ratio(_dot(changes[2], changes[1]), j**2),
        _ratio(_dot(d.velocity, changes[3]), speed * c) ** 2,
    ]
    return jnp.clip(jnp.stack(inputs, axis=-1), -MOST_INPUT, MOST_INPUT)


def _ratio(above: Float[Array, " K"], below: Float[Array, "*K"]) -> Float[Array, " K"]:
    """above / below; 0 where `below` is 0."""
    there = below > 0
    return jnp.where(there, above / jnp.where(there, below, 1.0), 0.0)


def _log_ratio(above: Float[Array, " K"], below: Float[Array, "*K"]) -> Float[Array, " K"]:
    """log(above / below), within the range of inputs; 0 for 0 / 0."""
    least = np.exp(-MOST_INPUT)
    above, below = jnp.maximum(above, least * below), jnp.maximum(below, least * above)
    return jnp.log(jnp.where(below > 0, _ratio(above, below), 1.0))


def _dot(x: Float[Array, "K D"], y: Float[Array, "K D"]) -> Float[Array, " K"]:
    return jnp.sum(x * y, axis=-1)
