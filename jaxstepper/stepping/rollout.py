"""Rollouts: a rule chooses a step and its scheme takes it, again and again, up to a limit."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.errors import require
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import UNROLLED_UP_TO, Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.clock import (
    MOST_STILL,
    Clock,
    direction,
    is_before,
    judge,
    started,
    tick,
    time_left,
)
from jaxstepper.stepping.rule import Memory, Rule
from jaxstepper.stepping.scheme import Carried, Scheme
from jaxstepper.stepping.side_by_side import (
    LANES,
    Tree,
    each,
    steps_of_all,
    steps_of_one,
    steps_until_all_end,
)
from jaxstepper.stepping.status import ENDED, NOT_FINITE, RUNNING, STALLED

MOST_STEPS = 2**31 - 1
# Systems of up to so many bodies go fewer side by side on a CPU where a step has several
# evaluations: so steps of three bodies take two thirds of the time, and systems wait less for each
# other. With more bodies, or shorter steps, that is mostly slower (tried: 16 to 64, 2 to 6 bodies).
FEW_BODIES, LANES_OF_LONG_STEPS = 3, 16


class Rollout(NamedTuple):
    """Where a rollout stands.

    Attributes:
        particles: the state.
        memory: what the rule carries.
        carried: what the scheme carries.
        steps: `[]`, the number taken so far.
        clock: where its time began, and what rounding took from it.
        status: `[]`, one of the codes of `status`; the first failure stays.
    """

    particles: Particles
    memory: Memory
    carried: Carried
    steps: Int[Array, ""]
    clock: Clock
    status: Int[Array, ""]


class Limits(NamedTuple):
    """When a rollout ends: at this time or after so many steps, whichever comes first.

    A time before that of the first state is reached backwards.
    """

    time: Float[Array, ""] | float = np.inf
    steps: Int[Array, ""] | int = MOST_STEPS


def start(
    rule: Rule, gravity: Gravity, particles: Particles, end_time: Array | float = np.inf
) -> Rollout:
    """A rollout before its first step.

    Args:
        rule: the step-size rule, on its scheme.
        gravity: if it has an external field, the acceleration is evaluated anew, since the state's
            may be that of another time.
        particles: the first state.
        end_time: where the rollout is to end; if that is earlier, time runs backwards.
    """
    rule.check_gravity(gravity)
    if gravity.external is not None:
        p = particles
        particles = p.replace(acceleration=gravity.acceleration(p.position, p.mass, p.time))
    clock = started(particles.time)
    memory = rule.init(_as_seen(gravity, _as_it_moves(particles, clock, end_time)))
    carried = _scheme_of(rule).init(particles, gravity)
    return Rollout(particles, memory, carried, jnp.zeros((), jnp.int32), clock, jnp.int32(RUNNING))


def advance(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits | None = None,
    goes_on: Bool[Array, ""] | None = None,
) -> Rollout:
    """The rollout one step further; a step beyond the time of the limits is shortened to end there.

    A step that leads nowhere is not taken: the state stays as it is, and the status says why.
    Without limits, time runs forwards, or backwards if the rule's steps are negative, and a step
    that is not a number is taken, so that a loss shows it. Where `goes_on` is given and false, the
    rollout stays as it is.
    """
    particles, memory, carried, steps, clock, status = rollout
    scheme = _scheme_of(rule)
    end = np.inf if limits is None else limits.time
    seen = _as_seen(gravity, _as_it_moves(particles, clock, end))
    way = direction(clock, end)
    asked, memory = rule.step_size(rule.told(memory, carried, way), seen)
    asked = way * jnp.asarray(asked, particles.time.dtype)
    dt, carried = scheme.length(carried, particles, asked, gravity)
    if limits is None:
        new = judge(clock, particles.time, jnp.abs(dt), jnp.zeros_like(dt))
    else:
        left = time_left(clock, particles.time, end)
        decides = jnp.isfinite(left) & (limits.steps == MOST_STEPS)
        new = judge(clock, particles.time, way * dt, jnp.where(decides, left, 0))
        dt = way * jnp.minimum(way * dt, left)
    new = jnp.where(jnp.isfinite(dt), new, NOT_FINITE)
    if limits is not None:
        dt = jnp.where(new == RUNNING, dt, 0)
    if goes_on is not None:
        dt = jnp.where(goes_on, dt, 0)
    after, carried = scheme.step(carried, particles, dt, gravity)
    clock, after = tick(clock, particles, after)
    new = jnp.where((new == RUNNING) & (clock.still >= MOST_STILL), STALLED, new)
    status = jnp.where(has_failed(status), status, new)
    advanced = Rollout(after, memory, carried, steps + 1, clock, status)
    return advanced if goes_on is None else _held(goes_on, advanced, rollout)


def _held(goes_on: Bool[Array, ""], new: Rollout, old: Rollout) -> Rollout:
    """The new rollout if it goes on, else the old one, which a step of no length has not moved.

    The new position is not chosen anew, or XLA would compute it again for each use of it.
    """
    held = jax.tree.map(partial(jnp.where, goes_on), new, old)
    return held._replace(particles=held.particles.replace(position=new.particles.position))


def _advance_plainly(rule: Rule, gravity: Gravity, rollout: Rollout) -> Rollout:
    """As `advance` without limits, but it sums the time plainly and judges no step.

    A step of a few bodies takes 40 ns, and exact time would make it several times as long.
    """
    particles, carried, scheme = rollout.particles, rollout.carried, _scheme_of(rule)
    memory = rule.told(rollout.memory, carried, 1.0)
    asked, memory = rule.step_size(memory, _as_seen(gravity, particles))
    asked = jnp.asarray(asked, particles.time.dtype)
    dt, carried = scheme.length(carried, particles, asked, gravity)
    particles, carried = scheme.step(carried, particles, dt, gravity)
    steps = rollout.steps + 1
    return rollout._replace(particles=particles, memory=memory, carried=carried, steps=steps)


def _scheme_of(rule: Rule) -> Scheme:
    """The scheme of a rule, which finds out on the way what the rule asks for."""
    return rule.scheme.watching(rule.falls)


def _as_seen(gravity: Gravity, particles: Particles) -> Particles:
    """The state as a rule, made for G = 1, should see it: with masses G m."""
    return particles.replace(mass=gravity.attracting(particles.mass))


def _as_it_moves(particles: Particles, clock: Clock, end_time: Array | float) -> Particles:
    """The state as a rule should see it: what runs backwards moves with opposite velocities."""
    if isinstance(end_time, float) and end_time == np.inf:
        return particles
    way = direction(clock, end_time)
    return particles.replace(velocity=way * particles.velocity, dt=way * particles.dt)


def has_failed(status: Int[Array, "*B"]) -> Bool[Array, "*B"]:
    """Whether a status is that of a rollout that cannot go on."""
    return status >= STALLED


def _judged_at_its_end(rollout: Rollout) -> Rollout:
    """The rollout, with a status by its last step: neither 0 nor NaN is ever left again."""
    p = rollout.particles
    stalled = (p.dt == 0) & (rollout.steps > 0)
    status = jnp.where(stalled, STALLED, ENDED)
    finite = jnp.isfinite(p.dt) & jnp.isfinite(p.time)
    return rollout._replace(status=jnp.where(finite, status, NOT_FINITE).astype(jnp.int32))


def reverse(rule: Rule, rollout: Rollout, gravity: Gravity | None = None) -> Rollout:
    """The rollout turned round: velocities reversed, and the memory made that of the way back.

    A reversible rule, such as a `Symmetrized` one, then leads back to where the rollout began,
    unless a step was shortened to end at a given time.

    Args:
        rule: the step-size rule.
        rollout: where the way back begins.
        gravity: what moved the bodies; needed where its G is not 1.

    Raises:
        UserError: the scheme has no way back.
    """
    require(not rule.scheme.irreversible, f"there is no way back: {rule.scheme.irreversible}")
    particles, memory = rollout.particles, rollout.memory
    # The memory belongs to the step before this state, which on the way back is the step after it.
    seen = particles if gravity is None else _as_seen(gravity, particles)
    _, memory = rule.step_size(memory, seen)
    return rollout._replace(
        particles=particles.replace(velocity=-particles.velocity), memory=memory
    )


def force_evaluations(rule: Rule, steps: int, searched: int = 0) -> int:
    """How often a rollout of so many steps evaluates the accelerations of all bodies.

    Once at the start, in each step as often as the scheme and the rule do, and where the scheme
    searched for a step (`Scheme.searched`), for each of its tries.
    """
    scheme = rule.scheme
    at_start = 1 + scheme.evaluations_at_start
    return at_start + steps * (scheme.evaluations + rule.evaluations) + searched


def is_running(rollout: Rollout, limits: Limits) -> Bool[Array, ""]:
    """Whether neither limit is reached, up to rounding of the time, and no step has failed."""
    before = is_before(rollout.clock, rollout.particles, limits.time)
    return before & (rollout.steps < limits.steps) & ~has_failed(rollout.status)


def share_done(rollout: Rollout, limits: Limits) -> Float[Array, ""]:
    """The share of a rollout that is done; 1 at its end, whichever limit ended it."""
    time, begin = rollout.particles.time, rollout.clock.begin
    of_time = (time - begin) / (limits.time - begin)
    share = jnp.maximum(of_time, (rollout.steps / limits.steps).astype(time.dtype))
    return jnp.where(is_running(rollout, limits), share, 1.0)


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_steps(rule: Rule, gravity: Gravity, particles: Particles, num_steps: int) -> Rollout:
    """A rollout of `num_steps` steps, in a `scan`; differentiable in both directions.

    The time is a plain sum of the steps; `run_until` loses none of them.
    """

    step = partial(_advance_plainly, rule, gravity)
    return _judged_at_its_end(steps_of_one(step, start(rule, gravity, particles), num_steps))


@partial(jax.jit, static_argnames=("gravity", "num_steps"))
def run_systems(rule: Rule, gravity: Gravity, particles: Particles, num_steps: int) -> Rollout:
    """Rollouts of `num_steps` steps of many systems, every field `[B, ...]`.

    The result is that of `vmap` of `run_steps`; for a few bodies it comes several times faster. The
    time is a plain sum, as in `run_steps`.
    """
    gravity = replace(gravity, by_component=True)
    starts = jax.vmap(lambda each: start(rule, gravity, each))(particles)
    step = partial(_advance_plainly, rule, gravity)
    return _judged_at_its_end(steps_of_all(step, starts, num_steps))


@partial(jax.jit, static_argnames="gravity")
def run_until(rule: Rule, gravity: Gravity, particles: Particles, limits: Limits) -> Rollout:
    """A rollout up to the limits, in a `while_loop`."""
    begin = start(rule, gravity, particles, limits.time)
    return run_on(rule, gravity, begin, limits, MOST_STEPS)


def run_all_on(
    rule: Rule,
    gravity: Gravity,
    rollouts: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> Rollout:
    """`run_on` of rollouts with limits of their own, every field `[B, ...]`."""
    if can_go_side_by_side(rollouts):
        return run_side_by_side(rule, gravity, rollouts, limits, num_steps)[0]

    def alone(rollout: Rollout, limits: Limits) -> Rollout:
        return run_on(rule, gravity, rollout, limits, num_steps)

    return each(alone, rollouts, limits)


def can_go_side_by_side(rollouts: Rollout) -> bool:
    """Whether they are several, of a few bodies."""
    count, bodies = rollouts.particles.mass.shape
    return count > 1 and bodies <= UNROLLED_UP_TO


def run_side_by_side(
    rule: Rule,
    gravity: Gravity,
    rollouts: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
    seen: Tree = (),
    look: Callable[[Tree, Rollout], Tree] = lambda seen, _: seen,
) -> tuple[Rollout, Tree]:
    """`run_all_on` of several rollouts of a few bodies, with a look at each state on the way.

    Args:
        rule: the step-size rule.
        gravity: what moves the bodies.
        rollouts: every field `[B, ...]`.
        limits: of each.
        num_steps: the most that each takes.
        seen: what was seen of each so far.
        look: what has been seen, given that and the rollout one step further.
    """
    gravity = replace(gravity, by_component=True)

    def goes_on(member: tuple[Rollout, Limits, Array, Tree]) -> Bool[Array, ""]:
        rollout, limits, before, _ = member
        return is_running(rollout, limits) & (rollout.steps - before < num_steps)

    def step(
        on: Bool[Array, ""], member: tuple[Rollout, Limits, Array, Tree]
    ) -> tuple[Rollout, Limits, Array, Tree]:
        rollout, limits, before, seen = member
        new = advance(rule, gravity, rollout, limits, on)
        now = jax.tree.map(partial(jnp.where, on), look(seen, new), seen)
        return new, limits, before, now

    begin = (rollouts, limits, rollouts.steps, seen)
    bodies = rollouts.particles.mass.shape[1]
    is_long = _scheme_of(rule).evaluations > 1 and bodies <= FEW_BODIES
    lanes = LANES_OF_LONG_STEPS if is_long else LANES
    rollouts, _, _, seen = steps_until_all_end(goes_on, step, begin, lanes)
    return jax.vmap(with_status)(rollouts, limits), seen


def run_on(
    rule: Rule,
    gravity: Gravity,
    rollout: Rollout,
    limits: Limits,
    num_steps: Int[Array, ""] | int,
) -> Rollout:
    """The rollout at its limits or `num_steps` steps further, whichever comes first."""
    before = rollout.steps

    def body(rollout: Rollout) -> Rollout:
        return advance(rule, gravity, rollout, limits)

    def running(rollout: Rollout) -> Array:
        return is_running(rollout, limits) & (rollout.steps - before < num_steps)

    return with_status(lax.while_loop(running, body, rollout), limits)


def with_status(rollout: Rollout, limits: Limits) -> Rollout:
    """The rollout, whose status says whether it is running or ended, unless it failed.

    One that took as many steps as can be counted, before its time was over, stalled.
    """
    going = jnp.where(is_running(rollout, limits), RUNNING, ENDED)
    is_left = is_before(rollout.clock, rollout.particles, limits.time)
    going = jnp.where(is_left & (rollout.steps >= MOST_STEPS), STALLED, going)
    going = jnp.where(jnp.isnan(limits.time), NOT_FINITE, going)
    status = jnp.where(has_failed(rollout.status), rollout.status, going)
    return rollout._replace(status=status.astype(jnp.int32))


def blown_up_at(rule: Rule, gravity: Gravity, particles: Particles, steps: int) -> int:
    """The first step after which the energy of a rollout is not finite, given that it ends so.

    Found by bisection, since such an energy never recovers. A check at every step would slow down
    every rollout.
    """
    fine, bad = 0, steps
    while bad - fine > 1:
        middle = (fine + bad) // 2
        rollout = run_until(rule, gravity, particles, Limits(steps=middle))
        finite = np.isfinite(total_energy(rollout.particles, gravity))
        if finite and rollout.status != NOT_FINITE:
            fine = middle
        else:
            bad = middle
    return bad
