"""Rollouts: a controller proposes dt, the leapfrog takes the step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.diagnostics import angular_momentum, momentum, total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.controller import Controller, Memory

# Steps in one device call of `record`: bounds its memory, and lets the host look in.
STEPS_PER_CALL = 1024
MOST_STEPS = 2**31 - 1


class Rollout(NamedTuple):
    """Where a rollout stands.

    Attributes:
        particles: the state.
        memory: the controller's.
        steps: `[]`, taken so far.
    """

    particles: Particles
    memory: Memory
    steps: Int[Array, ""]


class Limits(NamedTuple):
    """When a rollout ends: at this time or after so many steps, whichever comes first."""

    time: Float[Array, ""] | float = np.inf
    steps: Int[Array, ""] | int = MOST_STEPS


class Trajectory(NamedTuple):
    """A recorded rollout of S steps.

    Attributes:
        time: `[S + 1]`.
        dt: `[S]`.
        position: `[S + 1, N, D]`.
        velocity: `[S + 1, N, D]`.
        energy: `[S + 1]`.
    """

    time: np.ndarray
    dt: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    energy: np.ndarray


def start(controller: Controller, particles: Particles) -> Rollout:
    """A rollout before its first step."""
    return Rollout(particles, controller.init(particles), jnp.zeros((), jnp.int32))


def advance(
    controller: Controller, gravity: Gravity, rollout: Rollout, end_time: Array | float = np.inf
) -> Rollout:
    """One step; the last one before `end_time` is shortened so that it ends there."""
    particles, memory, steps = rollout
    dt, memory = controller.step_size(memory, particles)
    dt = jnp.minimum(dt, end_time - particles.time)
    return Rollout(controller.take_step(memory, particles, dt, gravity), memory, steps + 1)


def reverse(controller: Controller, rollout: Rollout) -> Rollout:
    """The rollout turned round: velocities reversed, and the memory that of the way back.

    A reversible rule, such as `symmetrized` ones, then returns to where the rollout came from, as
    long as no step was shortened to end at a given time.
    """
    particles, memory, steps = rollout
    # What the rule carries belongs to the step before this state; on the way back that is the step
    # after it.
    _, memory = controller.step_size(memory, particles)
    return Rollout(particles.replace(velocity=-particles.velocity), memory, steps)


def force_evaluations(controller: Controller, steps: int) -> int:
    """Evaluations of all bodies' accelerations in a rollout of so many steps, everything included.

    One for the start, and for each step the integrator's one and those of the rule.
    """
    return 1 + steps * (1 + controller.evaluations)


def is_running(rollout: Rollout, limits: Limits) -> Bool[Array, ""]:
    """Whether neither limit is reached; the time, to rounding."""
    time = rollout.particles.time
    left = limits.time - time
    return (left > 8 * jnp.finfo(time.dtype).eps * time) & (rollout.steps < limits.steps)


def share_done(rollout: Rollout, limits: Limits) -> Float[Array, ""]:
    """How much of a rollout is behind it; 1 at its end, whatever ended it."""
    time = rollout.particles.time
    share = jnp.maximum(time / limits.time, (rollout.steps / limits.steps).astype(time.dtype))
    return jnp.where(is_running(rollout, limits), share, 1.0)


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_steps(
    controller: Controller, gravity: Gravity, particles: Particles, num_steps: int
) -> Rollout:
    """A rollout of `num_steps` steps, in a `scan`; differentiable in both directions."""

    def body(rollout: Rollout, _: None) -> tuple[Rollout, None]:
        return advance(controller, gravity, rollout), None

    return lax.scan(body, start(controller, particles), length=num_steps)[0]


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_systems(
    controller: Controller, gravity: Gravity, particles: Particles, num_steps: int
) -> Rollout:
    """Rollouts of `num_steps` steps of many systems, every field `[B, ...]`.

    The same as `vmap` of `run_steps`, and several times faster for a few bodies: on the way, the
    systems are the last axis of every array, so that arithmetic runs along them.
    """
    gravity = replace(gravity, by_component=True)
    starts = jax.vmap(lambda each: start(controller, each))(particles)
    # Bare arrays: with the systems last, they are no `Particles`.
    leaves, structure = jax.tree.flatten(starts)

    def step(one: list[Array]) -> list[Array]:
        rollout = jax.tree.unflatten(structure, one)
        return jax.tree.leaves(advance(controller, gravity, rollout))

    def body(all_systems: list[Array], _: None) -> tuple[list[Array], None]:
        return jax.vmap(step, in_axes=-1, out_axes=-1)(all_systems), None

    systems_last = [jnp.moveaxis(leaf, 0, -1) for leaf in leaves]
    systems_last, _ = lax.scan(body, systems_last, length=num_steps)
    return jax.tree.unflatten(structure, [jnp.moveaxis(leaf, -1, 0) for leaf in systems_last])


@partial(jax.jit, static_argnames="gravity")
def run_until(
    controller: Controller, gravity: Gravity, particles: Particles, limits: Limits
) -> Rollout:
    """A rollout up to the limits, in a `while_loop`."""
    return run_on(controller, gravity, start(controller, particles), limits, MOST_STEPS)


def run_on(
    controller: Controller,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> Rollout:
    """The rollout up to the limits, or `num_steps` steps further on, in a `while_loop`."""
    before = rollout.steps

    def body(rollout: Rollout) -> Rollout:
        return advance(controller, gravity, rollout, limits.time)

    def running(rollout: Rollout) -> Array:
        return is_running(rollout, limits) & (rollout.steps - before < num_steps)

    return lax.while_loop(running, body, rollout)


def blown_up_at(controller: Controller, gravity: Gravity, particles: Particles, steps: int) -> int:
    """The first step after which the energy of a rollout is no longer finite, if `steps` is one.

    By bisection, since it stays so; looking every step would cost all rollouts.
    """
    fine, bad = 0, steps
    while bad - fine > 1:
        middle = (fine + bad) // 2
        rollout = run_until(controller, gravity, particles, Limits(steps=middle))
        if np.isfinite(total_energy(rollout.particles, gravity)):
            fine = middle
        else:
            bad = middle
    return bad


def record(
    controller: Controller,
    gravity: Gravity,
    particles: Particles,
    limits: Limits,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Rollout, Trajectory]:
    """A rollout up to the limits, with every state on the way.

    `report` is called after every device call with the share of the rollout that is done.
    """
    rollout = start(controller, particles)
    first = jax.tree.map(lambda x: np.asarray(x)[None], _snapshot(gravity, rollout))
    pieces = [first]
    running = bool(is_running(rollout, limits))
    while running:
        rollout, states, taken = _record_some(controller, gravity, rollout, limits)
        count = int(np.sum(taken))
        pieces.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], states))
        running = bool(is_running(rollout, limits))
        report(float(share_done(rollout, limits)))
    states = jax.tree.map(lambda *parts: np.concatenate(parts), *pieces)
    return rollout, states._replace(dt=states.dt[1:])


def _snapshot(gravity: Gravity, rollout: Rollout) -> Trajectory:
    p = rollout.particles
    return Trajectory(p.time, p.dt, p.position, p.velocity, total_energy(p, gravity))  # type: ignore[arg-type]


@partial(jax.jit, static_argnames="gravity")
def _record_some(
    controller: Controller, gravity: Gravity, rollout: Rollout, limits: Limits
) -> tuple[Rollout, Trajectory, Array]:
    """Up to `STEPS_PER_CALL` steps, the states after them, and which of those were taken."""

    def body(rollout: Rollout, _: None) -> tuple[Rollout, tuple[Trajectory, Array]]:
        running = is_running(rollout, limits)

        def step(rollout: Rollout) -> Rollout:
            return advance(controller, gravity, rollout, limits.time)

        rollout = lax.cond(running, step, lambda same: same, rollout)
        return rollout, (_snapshot(gravity, rollout), running)

    rollout, (states, taken) = lax.scan(body, rollout, length=STEPS_PER_CALL)
    return rollout, states, taken


def report(gravity: Gravity, first: Particles, last: Particles, steps: int) -> dict[str, Any]:
    """What a rollout conserved, in plain numbers and lists.

    energy_residual is (E - E0) / E0; momentum_residual |P - P0| / (|P0| + 1e-12);
    angular_momentum_residual (L - L0) / L0 for a scalar (None if L0 = 0), and for a vector
    |L - L0| / (|L0| + 1e-12). What is not finite is None, for JSON has no word for it.
    """
    energy = [float(total_energy(p, gravity)) for p in (first, last)]
    p0, p1 = (np.asarray(momentum(p)) for p in (first, last))
    l0, l1 = (np.asarray(angular_momentum(p)) for p in (first, last))
    values = {
        "steps": steps,
        "energy_initial": energy[0],
        "energy_final": energy[1],
        "energy_residual": _ratio(energy[1] - energy[0], energy[0]),
        "momentum_initial": p0.tolist(),
        "momentum_final": p1.tolist(),
        "momentum_residual": _vector_residual(p0, p1),
        "angular_momentum_initial": l0.tolist(),
        "angular_momentum_final": l1.tolist(),
        "angular_momentum_residual": (
            _ratio(float(l1 - l0), float(l0)) if l0.ndim == 0 else _vector_residual(l0, l1)
        ),
    }
    return {name: finite_or_none(value) for name, value in values.items()}


def finite_or_none(value: Any) -> Any:
    """The value, with None for each number that is not finite: JSON has no word for it."""
    if isinstance(value, list):
        return [finite_or_none(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ratio(change: float, initial: float) -> float | None:
    return change / initial if initial else None


def _vector_residual(initial: np.ndarray, final: np.ndarray) -> float:
    return float(np.linalg.norm(final - initial) / (np.linalg.norm(initial) + 1e-12))
