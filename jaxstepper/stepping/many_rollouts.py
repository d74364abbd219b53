"""Rollouts to their ends, in device calls of bounded length."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.machine.devices import each_its_share
from jaxstepper.machine.processes import to_host
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.batch import stacked, unstacked
from jaxstepper.stepping.rollout import Limits, Rollout, is_running, share_done, start
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.watch import Watch, watch_all_on, watch_of

# Steps in the first device call, whose cost is not known yet, and in the largest.
FIRST_STEPS, LARGEST_STEPS = 1, 100_000_000

# A call takes a rule and a number of steps, and rollouts with their watches and limits. Beside the
# rollouts and watches, it returns for each the steps taken, whether it goes on, and the share that
# is done.
Shared = tuple[Rule, Int[Array, ""]]
Batch = tuple[Rollout, Watch, Limits]
Looked = tuple[Int[Array, "*B"], Bool[Array, "*B"], Float[Array, "*B"]]


def roll_out(
    mesh: Mesh | None,
    rule: Rule,
    gravity: Gravity,
    starts: Sequence[Particles],
    limits: Sequence[Limits],
    report: Callable[[float], None] = lambda share: None,
) -> list[tuple[Rollout, Watch]]:
    """Rollouts up to their limits; several of equal shapes run as one batch.

    Where device calls end does not change the results.

    Args:
        mesh: the devices that share the rollouts.
        rule: the step-size rule.
        gravity: what moves the bodies.
        starts: where each begins.
        limits: where each ends.
        report: called after every device call with the share of the work that is done.

    Returns:
        Every rollout at its end, and its energy errors on the way, on the host.

    Raises:
        UserError: the rule cannot step these bodies.
    """
    particles = stacked(starts)
    rule.check_masses(np.asarray(particles.mass))
    # On the host, from where they may go to any devices.
    ends = Limits(
        np.asarray([limit.time for limit in limits], particles.time.dtype),  # type: ignore[arg-type]
        np.asarray([limit.steps for limit in limits], np.int32),  # type: ignore[arg-type]
    )
    watched = _begin(gravity, rule, particles, ends)
    run = each_its_share(mesh, _run, gravity)

    def call(budget: int) -> tuple[int, bool]:
        nonlocal watched
        watched, looked = run((rule, np.int32(budget)), (*watched, ends))
        taken, goes_on, share = map(np.asarray, to_host(looked))
        report(float(np.mean(share)))
        return int(np.max(taken)), bool(np.any(goes_on))

    in_bounded_calls(call, FIRST_STEPS, LARGEST_STEPS)
    return unstacked(watched)


@partial(jax.jit, static_argnums=0)
def _begin(
    gravity: Gravity, rule: Rule, particles: Particles, limits: Limits
) -> tuple[Rollout, Watch]:
    def of_one(particles: Particles, limits: Limits) -> tuple[Rollout, Watch]:
        begin = start(rule, gravity, particles, limits.time)
        return begin, watch_of(gravity, particles)

    return jax.vmap(of_one)(particles, limits)


def _run(gravity: Gravity, shared: Shared, batch: Batch) -> tuple[tuple[Rollout, Watch], Looked]:
    rule, num_steps = shared
    rollouts, watches, limits = batch
    new, watches = watch_all_on(rule, gravity, rollouts, watches, limits, num_steps)
    on, share = jax.vmap(is_running)(new, limits), jax.vmap(share_done)(new, limits)
    return (new, watches), (new.steps - rollouts.steps, on, share)
