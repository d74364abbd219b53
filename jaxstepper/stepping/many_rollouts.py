"""Rollouts to their ends, in device calls of bounded length."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.machine.call_budget import next_budget
from jaxstepper.machine.devices import each_its_share
from jaxstepper.machine.processes import from_main, to_host
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.controller import Controller
from jaxstepper.stepping.rollout import Limits, Rollout, is_running, run_on, share_done, start

# Steps in one device call; in the first, fewer if they would evaluate more pairs than this.
FIRST_STEPS, LARGEST_STEPS = 1000, 100_000_000
PAIRS_IN_FIRST_CALL = 1e8

# What a call starts from: rule and number of steps; rollouts and their limits. And what it gives:
# the rollouts, and of each the steps taken, whether it goes on, and the share that is done.
Shared = tuple[Controller, Int[Array, ""]]
Batch = tuple[Rollout, Limits]
Looked = tuple[Int[Array, "*B"], Bool[Array, "*B"], Float[Array, "*B"]]


def roll_out(
    mesh: Mesh | None,
    controller: Controller,
    gravity: Gravity,
    starts: Sequence[Particles],
    limits: Sequence[Limits],
    report: Callable[[float], None] = lambda share: None,
) -> list[Rollout]:
    """Rollouts up to their limits; several of equal shapes run as one batch.

    What they come to does not depend on where device calls end.

    Args:
        mesh: the devices that share them.
        controller: the step-size rule.
        gravity: what moves the bodies.
        starts: where each begins.
        limits: where each ends.
        report: called after every device call with the share of the work that is done.
    """
    particles = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    ends = Limits(
        jnp.asarray([limit.time for limit in limits], particles.time.dtype),
        jnp.asarray([limit.steps for limit in limits], jnp.int32),
    )
    rollouts = jax.jit(jax.vmap(start, (None, 0)))(controller, particles)
    pairs = particles.mass.size * particles.mass.shape[-1]
    budget = int(np.clip(PAIRS_IN_FIRST_CALL / pairs, 1, FIRST_STEPS))
    run = each_its_share(mesh, partial(_run, gravity))
    running = True
    while running:
        began = time.perf_counter()
        rollouts, looked = run((controller, jnp.asarray(budget, jnp.int32)), (rollouts, ends))
        taken, goes_on, share = map(np.asarray, to_host(looked))
        report(float(np.mean(share)))
        running = bool(np.any(goes_on))
        used, seconds = int(np.max(taken)), time.perf_counter() - began
        budget = from_main(next_budget(budget, used, seconds, 1, LARGEST_STEPS))
    rollouts = to_host(rollouts)
    return [jax.tree.map(lambda x, i=i: x[i], rollouts) for i in range(len(starts))]


def _run(gravity: Gravity, shared: Shared, batch: Batch) -> tuple[Rollout, Looked]:
    controller, num_steps = shared

    def of_one(rollout: Rollout, limits: Limits) -> tuple[Rollout, Looked]:
        new = run_on(controller, gravity, rollout, limits, num_steps)
        looked = (new.steps - rollout.steps, is_running(new, limits), share_done(new, limits))
        return new, looked

    if batch[0].steps.shape[0] > 1:
        return jax.vmap(of_one)(*batch)
    # A loop of one rollout needs no masks, and is up to four times as fast.
    alone = of_one(*jax.tree.map(lambda x: x[0], batch))
    return jax.tree.map(lambda x: x[None], alone)
