"""How fast an external field changes the motion of bodies. Units: G = 1.

A field with the gradient J of its acceleration moves a body on the time scale 1 / w, where
w^2 = |J|, as a pair has the free-fall time sqrt(r^3 / mu). A field that changes by itself, such as
a rotating bar, adds the square of the rate of that change. |J| is the Frobenius norm, which is
smooth and bounds every eigenvalue.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.gravity import ExternalField, safe_norm, safe_sqrt
from jaxstepper.physics.particles import Particles


def squared_rates(external: ExternalField, particles: Particles) -> Float[Array, " N"]:
    """w^2 of every body, `[N]`, by D derivatives in space and three in time."""
    x, time = particles.position, particles.time
    axes = jnp.eye(x.shape[1], dtype=x.dtype)

    def along(axis: Float[Array, " D"]) -> Float[Array, "N D"]:
        tangent = jnp.broadcast_to(axis, x.shape)
        return jax.jvp(lambda y: external.acceleration(y, time), (x,), (tangent,))[1]

    columns = [along(axis) for axis in axes]
    return safe_norm(jnp.concatenate(columns, axis=1)) + _squared_rate_in_time(external, particles)


def squared_rate_and_slope(
    external: ExternalField, particles: Particles
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of w^2 over bodies, and its derivative along the motion, `[]` each."""
    p = particles

    def total(position: Array, time: Array) -> Array:
        return jnp.sum(squared_rates(external, p.replace(position=position, time=time)))

    return jax.jvp(total, (p.position, p.time), (p.velocity, jnp.ones_like(p.time)))


def field_time(external: ExternalField, particles: Particles) -> Float[Array, ""]:
    """The shortest 1 / w of any body, `[]`; infinite where the field is uniform and constant."""
    rate = safe_sqrt(jnp.max(squared_rates(external, particles)))
    changes = rate > 0
    return jnp.where(changes, 1 / jnp.where(changes, rate, 1.0), jnp.inf)


def _squared_rate_in_time(external: ExternalField, particles: Particles) -> Float[Array, " N"]:
    """(|a'| |a'''| + |a''|^2) / (|a| |a''| + |a'|^2) of the field at a place: W^2 for cos(W t).

    Source: Aarseth 1985, his criterion for the step.
    """
    x, time = particles.position, particles.time

    def field(t: Array) -> Array:
        return external.acceleration(x, t)

    derivatives: list[Callable[[Array], Array]] = [field]
    for _ in range(3):
        derivatives.append(_slope(derivatives[-1]))
    a, a1, a2, a3 = (safe_norm(each(time)) for each in derivatives)
    above, below = a1 * a3 + a2**2, a * a2 + a1**2
    varies = (above > 0) & (below > 0)
    return jnp.where(varies, above / jnp.where(varies, below, 1.0), 0.0)


def _slope(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))[1]
