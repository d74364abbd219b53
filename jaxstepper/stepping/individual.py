"""Individual steps: Hermite's scheme, in which each body takes steps of its own.

All bodies are predicted to the next time at which some are due; these are evaluated, by the pull of
all, and corrected; a criterion chooses the next step of each. Steps are powers of two of a longest
one (`block_steps`), at whose ends all bodies meet; the last ones are cut short to end on time.

The bodies that are due are gathered into a tile of static size, so the work follows their number;
if they are more than a tile holds, it takes several turns. A turn is the same for all systems of a
batch, whatever the number of bodies due in each, so that none waits for another.

Source: Makino & Aarseth 1992.
"""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.diagnostics import barycentric, kinetic_energy
from jaxstepper.physics.gravity import Gravity, by_platform, safe_sqrt
from jaxstepper.physics.hermite import Motion, correct, predict, snap_and_crackle
from jaxstepper.physics.jerk import Pull, pull_on
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.block_steps import first_step, least_step, next_step
from jaxstepper.stepping.criteria import Criterion, Derivatives
from jaxstepper.stepping.individual_state import (
    LOWER_BITS,
    Individual,
    as_particles,
    block_end,
    due_times,
    in_block,
    is_running,
)
from jaxstepper.stepping.status import ENDED, NOT_FINITE, RUNNING, STALLED

# Bodies evaluated at once on a CPU, up to so many bodies in all, and beyond (tried: 4 to 64).
TILE, LARGE_TILE, LARGE = 8, 16, 128
# An accelerator needs work for all its threads, and takes as long to begin a turn as for so many
# pairs. Tiles are no smaller than this.
TILE_ON_ACCELERATOR, PAIRS_IN_TURN = 256, 2**23
# Bodies that are counted together.
COUNTED = 128
# Changes of an acceleration are taken for noise up to so many rounding errors of its terms.
NOISE = 4.0
# More longest steps cannot be counted.
MOST_BLOCKS = 2.0**31 - 1
# Of all bodies: their forces and jerks, and the rate of these.
EVALUATIONS_AT_START = 2


def start(
    criterion: Criterion,
    gravity: Gravity,
    particles: Particles,
    end_time: Float[Array, ""] | float,
    longest: Float[Array, ""] | float,
) -> Individual:
    """The bodies before their first steps.

    Args:
        criterion: chooses the steps.
        gravity: what moves the bodies.
        particles: the first state.
        end_time: where the rollout ends, exactly; before the time of the state, it runs backwards.
        longest: the longest step of any body, > 0.
    """
    p, dtype = particles, particles.time.dtype
    length = jnp.asarray(longest, dtype)
    where = jnp.concatenate((p.position.T, p.velocity.T))
    pull, snap = _pull_and_snap(gravity, p)
    wanted = criterion.first_step(pull.acceleration, pull.jerk, snap) / length
    motion = jnp.stack((p.position.T, p.velocity.T, pull.acceleration.T, pull.jerk.T))
    fine = jnp.all(jnp.isfinite(motion)) & ~jnp.any(jnp.isnan(wanted)) & jnp.isfinite(length)
    none = jnp.zeros((), jnp.int32)
    begin = Individual(
        mass=p.mass,
        motion=motion,
        own_time=jnp.zeros_like(p.mass),
        step=first_step(wanted),
        predicted=where,
        now=jnp.zeros_like(p.time),
        begin=p.time,
        end=p.time,
        length=length,
        block=none,
        blocks=none,
        last=jnp.ones_like(p.time),
        steps=none,
        evaluated=jnp.stack((none, none + EVALUATIONS_AT_START * p.mass.shape[0])),
        status=none + RUNNING,
    )
    begin = towards(begin, end_time)
    broken = ~fine & (begin.blocks > 0)
    return begin.replace(status=jnp.where(broken, NOT_FINITE, begin.status))


def towards(state: Individual, end_time: Float[Array, ""] | float) -> Individual:
    """The rollout with another end, not before its last step; where it has failed, it stays so."""
    end = jnp.asarray(end_time, state.begin.dtype)
    length = jnp.where(end < state.begin, -1, 1) * jnp.abs(state.length)
    span = (end - state.begin) / length
    rounding = 4 * jnp.finfo(span.dtype).eps * span
    blocks = jnp.ceil(span - rounding).astype(jnp.int32)
    last = span - (blocks - 1)
    status = jnp.where(state.block < blocks, RUNNING, ENDED)
    status = jnp.where(span > MOST_BLOCKS, STALLED, status).astype(jnp.int32)
    return state.replace(
        end=end,
        length=length,
        blocks=blocks,
        last=jnp.where(last > 1 - rounding, 1, last).astype(span.dtype),
        status=jnp.where(state.status >= STALLED, state.status, status),
    )


def turn(
    criterion: Criterion,
    gravity: Gravity,
    state: Individual,
    going: Bool[Array, ""] | bool = True,
    tile: int | None = None,
) -> Individual:
    """Takes the steps of as many of the bodies due next as a tile holds.

    Args:
        criterion: chooses the next step of each.
        gravity: what moves the bodies.
        state: a rollout that is running.
        going: if not, nothing changes.
        tile: how many bodies are evaluated at once; by default as suits the platform.
    """
    count = state.mass.shape[0]
    tile = min(count, tile or tile_of(count))
    due = due_times(state)
    now = jnp.min(due)
    is_new = now > state.now
    predicted = jnp.where(is_new, _predicted(state, now), state.predicted)
    is_due = (due == now) & going
    left = jnp.sum(is_due, dtype=jnp.int32)
    # What is left of the tile is filled with bodies not due, whose results are sent beyond the last
    # body, where writing has no effect.
    is_chosen = jnp.arange(tile) < left
    who = by_platform(
        # The largest of ones and zeros.
        cpu=lambda: lax.top_k(is_due.astype(jnp.float32), tile)[1],
        accelerator=lambda: first_of(is_due, tile),
    )
    to = jnp.where(is_chosen, who, count + jnp.arange(tile))

    def written(field: Array, new: Array) -> Array:
        return field.at[..., to].set(new, mode="drop", unique_indices=True)

    time = state.begin + state.length * (state.block.astype(now.dtype) + now)
    pull = pull_on(gravity, predicted[:, who], who, predicted, state.mass, time)
    step = state.step[who]
    taken = jnp.where(is_chosen, now - state.own_time[who], step)
    velocities = _velocities(gravity, predicted, state.mass)
    mass = gravity.attracting(state.mass[who])
    after, wanted = _stepped(criterion, state, who, mass, pull, state.length * taken, velocities)
    next_steps = next_step(step, wanted, now)
    broken = ~jnp.all(jnp.isfinite(after), axis=(0, 1)) | jnp.isnan(wanted)
    stuck = next_steps < least_step(now.dtype)
    meet = (now == block_end(state)) & (left <= tile) & going
    block = state.block + meet
    status = jnp.where(block < state.blocks, RUNNING, ENDED)
    status = jnp.where(jnp.any(stuck & is_chosen), STALLED, status)
    status = jnp.where(jnp.any(broken & is_chosen), NOT_FINITE, status)
    return state.replace(
        motion=written(state.motion, after),
        own_time=jnp.where(meet, 0.0, written(state.own_time, now)),
        step=written(state.step, next_steps),
        predicted=predicted,
        now=jnp.where(meet, 0.0, jnp.where(going, now, state.now)),
        block=block,
        steps=state.steps + (is_new & going),
        evaluated=_counted(state.evaluated, jnp.minimum(left, tile)),
        status=jnp.where(state.status == RUNNING, status, state.status).astype(jnp.int32),
    )


def first_of(chosen: Bool[Array, " N"], most: int) -> Int[Array, " K"]:
    """The numbers of the first K bodies that are chosen; 0 behind the last.

    Each is counted among its neighbours and those behind the groups before it, which an accelerator
    does at once, whereas it sorts in many steps.
    """
    count = chosen.shape[0]
    groups = jnp.pad(chosen, (0, -count % COUNTED)).reshape(-1, COUNTED).astype(jnp.int32)

    def before(counts: Int[Array, "*B M"]) -> Int[Array, "*B M"]:
        is_before = jnp.tri(counts.shape[-1], k=-1, dtype=bool)
        return jnp.sum(jnp.where(is_before, counts[..., None, :], 0), axis=-1, dtype=jnp.int32)

    place = before(jnp.sum(groups, axis=1, dtype=jnp.int32))[:, None] + before(groups)
    numbers = jnp.arange(count, dtype=jnp.int32)
    to = jnp.where(chosen, place.ravel()[:count], most + numbers)
    none = jnp.zeros(most, jnp.int32)
    return none.at[to].set(numbers, mode="drop", unique_indices=True)


def state_at(gravity: Gravity, state: Individual, time: Float[Array, ""] | float) -> Particles:
    """The bodies at a time between their own and when they are due, each by a step cut short.

    It costs an evaluation of all bodies. `dt` is the shortest of the steps that are cut.
    """
    now = in_block(state, time)
    time = jnp.asarray(time, now.dtype)
    predicted = _predicted(state, now)
    everyone = jnp.arange(state.mass.shape[0])
    pull = pull_on(gravity, predicted, everyone, predicted, state.mass, time)
    h = state.length * (now - state.own_time)
    there = correct(Motion(*state.motion), pull.acceleration.T, pull.jerk.T, h)
    dt = state.length * jnp.min(state.step)
    return as_particles(state, jnp.stack(there), state.block).replace(time=time, dt=dt)


@partial(jax.jit, static_argnames=("gravity", "tile"))
def run_individual(
    criterion: Criterion,
    gravity: Gravity,
    particles: Particles,
    end_time: Float[Array, ""] | float,
    longest: Float[Array, ""] | float,
    tile: int | None = None,
) -> Individual:
    """A rollout to its end in one `while_loop`; arguments as those of `start` and `turn`.

    Under `vmap`, each turn of a batch costs as much as one of every system, O(N) for those that
    have ended; `roll_out_individually` does better.
    """

    def body(state: Individual) -> Individual:
        return turn(criterion, gravity, state, tile=tile)

    begin = start(criterion, gravity, particles, end_time, longest)
    return lax.while_loop(is_running, body, begin)


def longest_step(gravity: Gravity, particles: Particles, end_time: float) -> float:
    """A longest step that suits most systems: 1/8 of the unit of time in which T + |U| is 3/4.

    At least 16 of them make the rollout, so that its energy is measured on the way; they alone
    decide where the bodies have no mass.
    """
    span = abs(end_time - float(particles.time))
    steps = [unit_of_time(gravity, particles) / 8, span / 16]
    return min((dt for dt in steps if 0 < dt < math.inf), default=1.0)


def unit_of_time(gravity: Gravity, particles: Particles) -> float:
    """G M^(5/2) / (4/3 (T + |U|))^(3/2); 0, infinite or NaN where the bodies have no mass.

    T and U are about the barycentre and of the bodies' own pull: an external field acts on bodies
    of any mass alike. Source: Heggie & Mathieu 1986.
    """
    p, own = particles, replace(gravity, external=None)
    size = kinetic_energy(barycentric(p, own))
    size = size + jnp.abs(own.potential_energy(p.position, p.mass, p.time))
    return gravity.G * float(jnp.sum(p.mass) ** 2.5 / (4 / 3 * size) ** 1.5)


def _pull_and_snap(gravity: Gravity, particles: Particles) -> tuple[Pull, Float[Array, "N D"]]:
    """The pull on every body by all, and the derivative of the jerk along the motion."""
    p = particles

    def pull(position: Array, velocity: Array, time: Array) -> Pull:
        where = jnp.concatenate((position.T, velocity.T))
        return pull_on(gravity, where, jnp.arange(p.mass.shape[0]), where, p.mass, time)

    a = gravity.acceleration(p.position, p.mass, p.time)
    rates = (p.velocity, a, jnp.ones_like(p.time))
    now, rate = jax.jvp(pull, (p.position, p.velocity, p.time), rates)
    return now, rate.jerk


def _predicted(state: Individual, now: Array) -> Float[Array, "C N"]:
    h = state.length * (now - state.own_time)
    return jnp.concatenate(predict(Motion(*state.motion), h))


def _stepped(
    criterion: Criterion,
    state: Individual,
    who: Int[Array, " K"],
    mass: Float[Array, " K"],
    pull: Pull,
    h: Float[Array, " K"],
    velocities: tuple[Float[Array, "D N"], Float[Array, ""]],
) -> tuple[Float[Array, "4 D K"], Float[Array, " K"]]:
    """The motion of K bodies after steps h, and the steps they want next, in blocks."""
    before = Motion(*state.motion[..., who])
    after = correct(before, pull.acceleration.T, pull.jerk.T, h)
    snap, crackle = snap_and_crackle(before, after, h)
    noise = NOISE * jnp.finfo(h.dtype).eps * pull.strength
    snap = _above(snap, 6 * noise / h**2)
    crackle = _above(crackle, 12 * noise / jnp.abs(h) ** 3)
    (velocity, speed), forwards = velocities, jnp.sign(state.length)
    known = Derivatives(
        pull.acceleration,
        forwards * pull.jerk,
        snap.T,
        forwards * crackle.T,
        mass,
        jnp.abs(h),
        forwards * velocity[:, who].T,
        speed,
    )
    return jnp.stack(after), criterion.step_size(known) / jnp.abs(state.length)


def _velocities(
    gravity: Gravity, motion: Float[Array, "C N"], mass: Float[Array, " N"]
) -> tuple[Float[Array, "D N"], Float[Array, ""]]:
    """Velocities in the frame in which energies are measured, and the root of their mean square.

    Criteria that do without them cost nothing: XLA leaves out what nobody uses.
    """
    total = jnp.sum(mass)
    share = mass / jnp.where(total > 0, total, 1.0)
    velocity = motion[len(motion) // 2 :]
    if gravity.external is None:
        near = velocity - velocity[:, :1]
        velocity = near - (near @ share)[:, None]
    return velocity, safe_sqrt(jnp.sum(share * velocity**2))


def _above(z: Float[Array, "D K"], level: Float[Array, " K"]) -> Float[Array, "D K"]:
    """Vectors longer than a level; 0 for the others."""
    # Relative to the level, whose square may be too small for a number.
    relative = z / jnp.where(level > 0, level, 1.0)
    return jnp.where(jnp.sum(relative * relative, axis=0) > jnp.sign(level), z, 0.0)


def _counted(evaluated: Int[Array, "2"], more: Int[Array, ""]) -> Int[Array, "2"]:
    lower = evaluated[1] + more
    return jnp.stack((evaluated[0] + (lower >> LOWER_BITS), lower & ((1 << LOWER_BITS) - 1)))


def tile_of(count: int) -> int:
    """How many of so many bodies are evaluated at once."""
    if jax.default_backend() != "cpu":
        return max(TILE_ON_ACCELERATOR, PAIRS_IN_TURN // count)
    return TILE if count <= LARGE else LARGE_TILE
