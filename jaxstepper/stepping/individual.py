"""Individual steps: Hermite's scheme, in which each body takes steps of its own.

All bodies are predicted to the next time at which some are due; these are evaluated, by the pull of
all, and corrected; a criterion chooses the next step of each. Steps are powers of two of a longest
one (`block_steps`), at whose ends all bodies meet.

The bodies that are due are gathered into a tile of static size, so the work follows their number;
if they are more than a tile holds, it takes several turns. A turn is the same for all systems of a
batch, whatever the number of bodies due in each, so that none waits for another.

Source: Makino & Aarseth 1992.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.physics.diagnostics import barycentric, kinetic_energy
from jaxstepper.physics.gravity import Gravity, safe_sqrt
from jaxstepper.physics.hermite import Motion, correct, predict, snap_and_crackle
from jaxstepper.physics.jerk import Pull, pull_on
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.block_steps import first_step, least_step, next_step
from jaxstepper.stepping.criteria import Criterion, Derivatives
from jaxstepper.stepping.individual_state import LOWER_BITS, Individual, is_running
from jaxstepper.stepping.status import ENDED, NOT_FINITE, RUNNING, STALLED

# Bodies evaluated at once on a CPU, up to so many bodies in all, and beyond (tried: 4 to 64).
TILE, LARGE_TILE, LARGE = 8, 16, 128
# An accelerator needs work for all its threads.
TILE_ON_ACCELERATOR = 256
# Changes of an acceleration are taken for noise up to so many rounding errors of its terms.
NOISE = 4.0
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
        longest: the longest step of any body, > 0; it is shortened to divide the time to the end.
    """
    p, dtype = particles, particles.time.dtype
    end = jnp.asarray(end_time, dtype)
    blocks = _whole_number(jnp.abs(end - p.time) / longest)
    length = jnp.where(blocks > 0, (end - p.time) / jnp.maximum(blocks, 1), longest)
    where = jnp.concatenate((p.position.T, p.velocity.T))
    pull, snap = _pull_and_snap(gravity, p)
    wanted = criterion.first_step(pull.acceleration, pull.jerk, snap) / jnp.abs(length)
    motion = jnp.stack((p.position.T, p.velocity.T, pull.acceleration.T, pull.jerk.T))
    fine = jnp.all(jnp.isfinite(motion)) & ~jnp.any(jnp.isnan(wanted)) & jnp.isfinite(length)
    none = jnp.zeros((), jnp.int32)
    return Individual(
        mass=p.mass,
        motion=motion,
        own_time=jnp.zeros_like(p.mass),
        step=first_step(wanted),
        predicted=where,
        now=jnp.zeros_like(p.time),
        begin=p.time,
        end=end,
        length=length.astype(dtype),
        block=none,
        blocks=blocks,
        steps=none,
        evaluated=jnp.stack((none, none + EVALUATIONS_AT_START * p.mass.shape[0])),
        status=_running(none, blocks, ~fine, jnp.asarray(False)),
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
    tile = min(count, tile or _tile(count))
    due = state.own_time + state.step
    now = jnp.min(due)
    is_new = now > state.now
    predicted = jnp.where(is_new, _predicted(state, now), state.predicted)
    is_due = (due == now) & going
    left = jnp.sum(is_due, dtype=jnp.int32)
    # The largest of ones and zeros. What is left of the tile is filled with bodies not due, whose
    # results are sent beyond the last body, where writing has no effect.
    chosen, who = lax.top_k(is_due.astype(jnp.float32), tile)
    to = jnp.where(chosen > 0, who, count + jnp.arange(tile))

    def written(field: Array, new: Array) -> Array:
        return field.at[..., to].set(new, mode="drop", unique_indices=True)

    time = state.begin + state.length * (state.block.astype(now.dtype) + now)
    pull = pull_on(gravity, predicted[:, who], predicted, state.mass, time)
    step = state.step[who]
    velocities = _velocities(gravity, predicted, state.mass)
    mass = gravity.attracting(state.mass[who])
    after, wanted = _stepped(criterion, state, who, mass, pull, state.length * step, velocities)
    next_steps = next_step(step, wanted, now)
    broken = ~jnp.all(jnp.isfinite(after), axis=(0, 1)) | jnp.isnan(wanted)
    stuck = next_steps < least_step(now.dtype)
    meet = (now == 1) & (left <= tile) & going
    block = state.block + meet
    status = _running(
        block, state.blocks, jnp.any(broken & (chosen > 0)), jnp.any(stuck & (chosen > 0))
    )
    return state.replace(
        motion=written(state.motion, after),
        own_time=jnp.where(meet, 0.0, written(state.own_time, now)),
        step=written(state.step, next_steps),
        predicted=predicted,
        now=jnp.where(meet, 0.0, jnp.where(going, now, state.now)),
        block=block,
        steps=state.steps + (is_new & going),
        evaluated=_counted(state.evaluated, jnp.minimum(left, tile)),
        status=jnp.where(state.status == RUNNING, status, state.status),
    )


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
    decide where the bodies have no mass. Source of the unit: Heggie & Mathieu 1986.
    """
    p = particles
    size = kinetic_energy(barycentric(p, gravity))
    size = size + jnp.abs(gravity.potential_energy(p.position, p.mass, p.time))
    unit = gravity.G * float(jnp.sum(p.mass) ** 2.5 / (4 / 3 * size) ** 1.5)
    span = abs(end_time - float(p.time))
    steps = [unit / 8, span / 16]
    return min((dt for dt in steps if 0 < dt < math.inf), default=1.0)


def _pull_and_snap(gravity: Gravity, particles: Particles) -> tuple[Pull, Float[Array, "N D"]]:
    """The pull on every body by all, and the derivative of the jerk along the motion."""
    p = particles

    def pull(position: Array, velocity: Array, time: Array) -> Pull:
        where = jnp.concatenate((position.T, velocity.T))
        return pull_on(gravity, where, where, p.mass, time)

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
    return jnp.where(jnp.sum(z * z, axis=0) > level * level, z, 0.0)


def _whole_number(blocks: Float[Array, ""]) -> Int[Array, ""]:
    """The number of blocks, rounded up, except for what rounding added to it."""
    return jnp.ceil(blocks * (1 - 4 * jnp.finfo(blocks.dtype).eps)).astype(jnp.int32)


def _running(block: Array, blocks: Array, broken: Array, stuck: Array) -> Int[Array, ""]:
    status = jnp.where(block < blocks, RUNNING, ENDED)
    status = jnp.where(stuck, STALLED, status)
    return jnp.where(broken & (blocks > 0), NOT_FINITE, status).astype(jnp.int32)


def _counted(evaluated: Int[Array, "2"], more: Int[Array, ""]) -> Int[Array, "2"]:
    lower = evaluated[1] + more
    return jnp.stack((evaluated[0] + (lower >> LOWER_BITS), lower & ((1 << LOWER_BITS) - 1)))


def _tile(count: int) -> int:
    if jax.default_backend() != "cpu":
        return TILE_ON_ACCELERATOR
    return TILE if count <= LARGE else LARGE_TILE
