"""The kick-drift-kick leapfrog, and that of the logarithmic Hamiltonian."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxstepper.physics.diagnostics import barycentric, kinetic_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import AccelerationFn, Particles

# The search for a step that ends at a given time: its tolerance, in rounding errors, and its limit.
CLOSE = 4
MOST_TRIES = 60


def leapfrog(
    particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
) -> Particles:
    """One step of size dt: second order, symplectic and reversible at constant dt.

    It evaluates `acceleration` once, since the state carries the value at its own position.
    """
    dt = jnp.asarray(dt, particles.time.dtype)
    time = particles.time + dt
    v_half = particles.velocity + 0.5 * dt * particles.acceleration
    x = particles.position + dt * v_half
    a = acceleration(x, particles.mass, time)
    v = v_half + 0.5 * dt * a
    return particles.replace(position=x, velocity=v, acceleration=a, time=time, dt=dt)


def logarithmic_leapfrog(
    particles: Particles,
    h: Float[Array, ""] | float,
    binding: Float[Array, ""],
    gravity: Gravity,
) -> Particles:
    """One drift-kick-drift step of the logarithmic Hamiltonian log(T + B) - log U.

    With h the step of the transformed time, drifts last h / (T + B) / 2 and the kick h / U, where T
    is the kinetic energy about the barycentre, -U the potential energy and B = -(T - U) at the
    start of the rollout. Two bodies stay on
    their exact orbit, with an error in phase only. Accelerations are evaluated once, in the middle
    of the step; the state that is returned carries those, not the ones at its own position.
    Source: Mikkola & Tanikawa 1999; Preto & Tremaine 1999.

    Args:
        particles: the state.
        h: the step of the transformed time; how much time it takes is only known after it.
        binding: B.
        gravity: the force.
    """
    p = particles
    drift = half_drift(p, h, binding, gravity)
    x, time = p.position + drift * p.velocity, p.time + drift
    a = gravity.acceleration(x, p.mass, time)
    v = p.velocity - h / gravity.potential_energy(x, p.mass, time) * a
    end = p.replace(velocity=v, acceleration=a)
    second = half_drift(end, h, binding, gravity)
    return end.replace(position=x + second * v, time=time + second, dt=drift + second)


def half_drift(
    particles: Particles,
    h: Float[Array, ""] | float,
    binding: Float[Array, ""],
    gravity: Gravity,
) -> Float[Array, ""]:
    """The time h / (T + B) / 2 of a drift of `logarithmic_leapfrog`, `[]`."""
    energy = kinetic_energy(barycentric(particles, gravity)) + binding
    return 0.5 * jnp.asarray(h, particles.time.dtype) / energy


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def logarithmic_leapfrog_to(
    particles: Particles,
    dt: Float[Array, ""],
    whole: tuple[Float[Array, ""], Particles],
    binding: Float[Array, ""],
    gravity: Gravity,
) -> tuple[Particles, Float[Array, ""]]:
    """A step as `logarithmic_leapfrog`, which takes the time dt, to rounding.

    Finds h by regula falsi (the Illinois variant), at one evaluation of forces a try; its
    derivatives are those of the h that solves the equation.

    Args:
        particles: the state.
        dt: the time that the step shall take, from 0 to that of the whole step, backwards too.
        whole: a step of the transformed time, and the state after it, which is returned if it
            takes the time dt as it is.
        binding: B.
        gravity: the force.

    Returns:
        The state after the step, and how many tries it took.
    """
    found = _search(particles, dt, whole, binding, gravity)
    return found.end, found.tries


def _search(
    particles: Particles,
    dt: Float[Array, ""],
    whole: tuple[Float[Array, ""], Particles],
    binding: Float[Array, ""],
    gravity: Gravity,
) -> "_Bracket":
    """What `logarithmic_leapfrog_to` finds: h, the state after the step, the tries it took."""
    h, end = whole
    # Where time runs backwards, so does h; the search is for their sizes.
    way = jnp.where(end.dt < 0, -1, 1).astype(dt.dtype)
    length, wanted = way * end.dt, way * dt
    close = CLOSE * jnp.finfo(dt.dtype).eps * wanted

    def search(b: _Bracket) -> _Bracket:
        h = b.low - b.off_low * (b.high - b.low) / (b.off_high - b.off_low)
        h = jnp.clip(jnp.where(jnp.isfinite(h), h, 0.5 * (b.low + b.high)), b.low, b.high)
        end = logarithmic_leapfrog(particles, way * h, binding, gravity)
        # A step so long that T + B changes its sign takes no time that means anything.
        taken = way * end.dt
        off = jnp.where(taken > 0, taken - wanted, length)
        over = off > 0
        # Where the same end moves twice, the other counts for half, or it would never move.
        half = jnp.where(over == (b.moved > 0), 0.5, 1.0).astype(dt.dtype)
        half = jnp.where(b.moved == 0, 1, half)
        return _Bracket(
            low=jnp.where(over, b.low, h),
            off_low=jnp.where(over, half * b.off_low, off),
            high=jnp.where(over, h, b.high),
            off_high=jnp.where(over, off, half * b.off_high),
            h=way * h,
            end=end,
            moved=jnp.where(over, 1, -1).astype(b.moved.dtype),
            tries=b.tries + 1,
            done=jnp.abs(off) <= close,
        )

    # A step that is not shortened needs no search.
    zero, moved = jnp.zeros_like(dt), jnp.zeros((), jnp.int32)
    off_high, done = length - wanted, wanted == length
    begin = _Bracket(zero, -wanted, way * h, off_high, h, end, moved, zero, done)
    found = lax.while_loop(lambda b: (b.tries < MOST_TRIES) & ~b.done, search, begin)
    return found._replace(end=found.end.replace(time=particles.time + dt, dt=dt))


@logarithmic_leapfrog_to.defjvp
def _derivative(gravity: Gravity, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """By the implicit function: time(h, state) = dt, so dh = (d(dt) - d(time)_h) / (dtime / dh)."""
    particles, dt, whole, binding = primals
    found = _search(particles, dt, whole, binding, gravity)
    h = found.h

    def step(h: Array, particles: Particles, binding: Array) -> Particles:
        return logarithmic_leapfrog(particles, h, binding, gravity)

    moving = (jnp.zeros_like(h), tangents[0], tangents[3])
    _, fixed_h = jax.jvp(step, (h, particles, binding), moving)
    along = jax.jvp(lambda h: step(h, particles, binding), (h,), (jnp.ones_like(h),))[1]
    change = (tangents[1] - fixed_h.dt) / along.dt
    moved = jax.tree.map(lambda x, y: x + change * y, fixed_h, along)
    return (found.end, found.tries), (moved, jnp.zeros_like(found.tries))


class _Bracket(NamedTuple):
    """Two steps on either side of the one that is searched, and how far off their times are; the
    last try, the state after it, which side it moved (1, -1, or 0 before it); how many so far, a
    float for the sake of derivatives, and whether the last one is it.
    """

    low: Float[Array, ""]
    off_low: Float[Array, ""]
    high: Float[Array, ""]
    off_high: Float[Array, ""]
    h: Float[Array, ""]
    end: Particles
    moved: Array
    tries: Float[Array, ""]
    done: Bool[Array, ""]
