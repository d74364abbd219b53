"""Watching the energy of a rollout on its way, since an error at the end may be small by chance."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.diagnostics import (
    Energy,
    internal_energy,
    kinetic_energy,
    reference_energy,
    relative_energy_error,
)
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    advance,
    can_go_side_by_side,
    is_running,
    run_on,
    run_side_by_side,
    with_status,
)
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.side_by_side import each

# A state whose relative energy error is larger is not physics any more.
WRONG_ABOVE = 1.0
FELT = 0.1
# Up to this many bodies the energy is measured at every step. Beyond, the sum over pairs would cost
# about as much as the step, so it is measured at every so many steps.
EVERY_STEP_UP_TO = 64
STEPS_BETWEEN = 16


class Watch(NamedTuple):
    """The energy errors of a rollout so far.

    Attributes:
        initial: the energy at the start.
        worst: `[]`, the largest relative energy error; infinite after one that was not a number.
        wrong_time: `[]`, when the error was first seen to be above `WRONG_ABOVE` (and, in an
            external field, above `FELT` of the energies then), else NaN.
        wrong_step: `[]`, after how many steps; 0 if never.
    """

    initial: Energy
    worst: Float[Array, ""]
    wrong_time: Float[Array, ""]
    wrong_step: Int[Array, ""]


def watch_of(gravity: Gravity, particles: Particles) -> Watch:
    """A watch that begins at this state."""
    time = particles.time
    zero, never = jnp.zeros_like(time), jnp.full_like(time, jnp.nan)
    return Watch(reference_energy(particles, gravity), zero, never, jnp.zeros((), jnp.int32))


def look(
    gravity: Gravity, watch: Watch, particles: Particles, steps: Int[Array, ""] | int
) -> Watch:
    """The watch after another look at the energy, of a state after so many steps."""
    energy = internal_energy(particles, gravity)
    error = relative_energy_error(energy, watch.initial)
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    wrong = error > WRONG_ABOVE
    if gravity.external is not None:
        kinetic = kinetic_energy(particles)
        wrong &= _is_felt(energy, watch.initial.value, kinetic)
    first = wrong & (watch.wrong_step == 0)
    return watch._replace(
        worst=jnp.maximum(watch.worst, error),
        wrong_time=jnp.where(first, particles.time, watch.wrong_time),
        wrong_step=jnp.where(first, steps, watch.wrong_step),
    )


def watch_on(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    watch: Watch,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> tuple[Rollout, Watch]:
    """As `run_on`, with an eye on the energy; where calls end does not change what is seen."""
    before = rollout.steps
    few = rollout.particles.mass.shape[0] <= EVERY_STEP_UP_TO

    def step(carry: tuple[Rollout, Watch]) -> tuple[Rollout, Watch]:
        new = advance(rule, gravity, carry[0], limits)
        return new, look(gravity, carry[1], new.particles, new.steps)

    def several_steps(carry: tuple[Rollout, Watch]) -> tuple[Rollout, Watch]:
        rollout, watch = carry
        most = num_steps - (rollout.steps - before)
        size = jnp.minimum(STEPS_BETWEEN - rollout.steps % STEPS_BETWEEN, most)
        new = run_on(rule, gravity, rollout, limits, size)
        due = (new.steps % STEPS_BETWEEN == 0) | ~is_running(new, limits)
        seen = look(gravity, watch, new.particles, new.steps)
        return new, jax.tree.map(lambda x, y: jnp.where(due, x, y), seen, watch)

    def running(carry: tuple[Rollout, Watch]) -> Array:
        return is_running(carry[0], limits) & (carry[0].steps - before < num_steps)

    rollout, watch = lax.while_loop(running, step if few else several_steps, (rollout, watch))
    return with_status(rollout, limits), watch


def watch_all_on(
    rule: Rule,
    gravity: Gravity,
    rollouts: Rollout,
    watches: Watch,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> tuple[Rollout, Watch]:
    """`watch_on` of rollouts with limits of their own, every field `[B, ...]`."""

    def seen_of(watch: Watch, new: Rollout) -> Watch:
        return look(gravity, watch, new.particles, new.steps)

    if can_go_side_by_side(rollouts):
        return run_side_by_side(rule, gravity, rollouts, limits, num_steps, watches, seen_of)

    def alone(rollout: Rollout, watch: Watch, limits: Limits) -> tuple[Rollout, Watch]:
        return watch_on(rule, gravity, rollout, watch, limits, num_steps)

    return each(alone, rollouts, watches, limits)


def watch_of_recorded(gravity: Gravity, start: Particles, path: Trajectory) -> Watch:
    """The watch of a rollout from `start`, all of whose states were recorded."""
    initial = reference_energy(start, gravity)
    error = np.asarray(relative_energy_error(_internal(gravity, start, path), initial))
    error = np.where(np.isnan(error), np.inf, error)
    wrong = error > WRONG_ABOVE
    if gravity.external is not None:
        kinetic = 0.5 * np.sum(np.asarray(start.mass)[:, None] * path.velocity**2, axis=(1, 2))
        wrong &= np.asarray(_is_felt(jnp.asarray(path.energy), initial.value, jnp.asarray(kinetic)))
    step = int(np.argmax(wrong))
    time = path.time[step] if wrong.any() else np.nan
    return Watch(initial, np.max(error), time, step)  # type: ignore[arg-type]


def _is_felt(
    energy: Float[Array, "..."], initial: Float[Array, ""], kinetic: Float[Array, "..."]
) -> Bool[Array, "..."]:
    """Whether an energy has changed by a tenth of its kinetic and potential parts, or is NaN.

    In an external field the zero of the potential is a convention, and E0 may be small by chance.
    """
    parts = kinetic + abs(energy - kinetic)
    return ~(abs(energy - initial) <= FELT * parts)


def _internal(gravity: Gravity, start: Particles, path: Trajectory) -> Float[Array, " S"]:
    """Energies about the barycentre of recorded states, whose total energies are known."""
    if gravity.external is not None:
        return jnp.asarray(path.energy)
    mass = np.asarray(start.mass)[:, None]
    mean = np.sum(mass * path.velocity, axis=1, keepdims=True) / np.sum(mass)
    drift = 0.5 * np.sum(mass * mean * (2 * path.velocity - mean), axis=(1, 2))
    return jnp.asarray(path.energy - drift)
