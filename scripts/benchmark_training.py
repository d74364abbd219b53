"""Rows of training: iterations of both phases, many orbits at once, and growth with epochs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import NO_NUMBER, Row, best_times, copy_work, faster, matmul_work, within

from jaxstepper.runs.bodies import initial_tables, with_shape_of
from jaxstepper.runs.start import prepare
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.training.run import train_chunk
from jaxstepper.training.two_phase.collect import collect
from jaxstepper.training.two_phase.gate import Gate
from jaxstepper.training.two_phase.generalize import generalize
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.state import TrainState

WARM_UP_EPOCHS, TIMED_EPOCHS = 10, 3
PLENTY = np.int32(10**6)
# No step is this good, so that every attempt trains.
UNREACHABLE = 1e-300

run_phase_1 = jax.jit(collect, static_argnums=0, donate_argnums=1)
run_phase_2 = jax.jit(generalize, static_argnums=0, donate_argnums=1)


def prepared(**settings: Any) -> tuple[Plan, TrainState]:
    """A run of the default network."""
    config = Config(seed=0, **settings)
    tables = initial_tables(Request(config), many=config.multi_orbit)
    return prepare(with_shape_of(config, tables), tables)


def hopeless(plan: Plan, **changes: Any) -> Plan:
    """The plan with a gate that no step passes, and no end to trying."""
    return replace(plan, gate=Gate(threshold=UNREACHABLE, monotone=False), **changes)


def weights_in(plan_state: TrainState) -> int:
    """How many numbers are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(plan_state.variables["params"]))


def retrain(repeats: int, iterations: int) -> Iterator[Row]:
    """Failed attempts of phase 1 on three bodies, one after the other."""
    plan, state = prepared(num_particles=3)
    plan = hopeless(plan, max_retrain_steps=0)

    ours, size = _going_on(partial(run_phase_1, plan), state, iterations), weights_in(state)
    copy, moved = copy_work()
    peer = _torch_peer(1, 3)
    works = [ours, copy, *([partial(peer.train_batch, iterations)] if peer else [])]
    time, traffic, *theirs = best_times(repeats, *works)
    other = theirs[0].best if theirs else NO_NUMBER
    name, unit = "retrain iteration", "iterations/s"
    yield faster(name, iterations, unit, time, "plain torch", other, 5.0)
    # Adam reads weights, gradient and two moments, and writes all but the gradient.
    floor = iterations * 7 * 8 * size / (moved / traffic.best)
    name, reference = "retrain iteration, memory", "traffic of Adam"
    yield faster(name, iterations, unit, time, reference, floor, 1 / 1.6)


def replay(repeats: int, samples: int, iterations: int = 3) -> Iterator[Row]:
    """Iterations of phase 2 in which every sample of the batch fails."""
    plan, state = prepared(multi_orbit=True, num_orbits=samples)
    state, _ = run_phase_1(plan, state, PLENTY)
    plan = hopeless(plan, replay_batch_size=samples, replay_steps=10**6)

    ours = _going_on(partial(run_phase_2, plan), state, iterations)
    peer = _torch_peer(samples, 2)
    if peer is None:
        (time,) = best_times(repeats, ours)
        batched = alone = NO_NUMBER
    else:
        time, together = best_times(repeats, ours, partial(peer.train_batch, iterations))
        batched = together.best / iterations
        few = min(samples, 32)
        (loop,) = best_times(1, partial(peer.train_one_by_one, few))
        alone = loop.best * samples / few
    name, unit = f"phase 2 iteration, {samples}", "iterations/s"
    per_iteration = time._replace(best=time.best / iterations)
    yield faster(name, 1, unit, per_iteration, "torch, a loop over samples", alone, 50.0)
    yield faster(f"{name}, batched", 1, unit, per_iteration, "torch, batched", batched, 1 / 1.5)


def _going_on(run: Callable, state: TrainState, iterations: int) -> Callable[[], object]:
    """Work that goes on in place from where the last left off, as training does."""
    kept = [jax.tree.map(jnp.copy, state)]

    def work() -> object:
        kept[0], _ = run(kept[0], np.int32(iterations))
        return kept[0].progress.step

    return work


def orbits(repeats: int, sizes: tuple[int, ...], **settings: Any) -> Iterator[Row]:
    """Seconds for an orbit to have a step accepted, for B orbits at once."""
    unit = "s/orbit-step"
    for size in sizes:
        cost, compile_time, speed = orbit_cost(repeats, size, **settings)
        alone, *_ = orbit_cost(repeats, 1, **settings)
        goal = 50.0 if size == 1024 else None
        yield within(f"orbits {size}", cost, unit, "one orbit", alone, goal)._replace(
            compile_time=compile_time
        )
    _, state = prepared(multi_orbit=True, num_orbits=1, **settings)
    floor = 2.0 * weights_in(state) / speed
    yield within(f"orbits {size}, products", cost, unit, "matrix products alone", floor, None)


@lru_cache
def orbit_cost(repeats: int, size: int, **settings: Any) -> tuple[float, float, float]:
    """Seconds of an orbit-step, those of compiling, and the operations/s of matrix products."""
    work, orbit_steps = orbit_work(size, **settings)
    product, operations = matmul_work(min(size, 256))
    time, peak = best_times(repeats, work, product)
    return time.best / orbit_steps, time.compile_time, operations / peak.best


def orbit_work(size: int, **settings: Any) -> tuple[Callable[[], object], int]:
    """Some epochs of a run that has found its dt, and the orbit-steps in them."""
    steps_per_epoch = 10
    settings |= {"multi_orbit": True, "num_orbits": size, "steps_per_epoch": steps_per_epoch}
    plan, state = prepared(**settings)
    state, *_ = train_chunk(plan, state, np.int32(WARM_UP_EPOCHS), PLENTY)
    last = np.int32(WARM_UP_EPOCHS + TIMED_EPOCHS)

    def work() -> object:
        # The state is donated, so every run gets a copy.
        copy = jax.tree.map(jnp.copy, state)
        return train_chunk(plan, copy, last, PLENTY)[2].total_steps

    return work, TIMED_EPOCHS * steps_per_epoch * size


def growth(repeats: int, quick: bool) -> Iterator[Row]:
    """Seconds an epoch, for more and more epochs of a run that has found its dt."""
    plan, state = prepared(num_particles=3, hidden_dims=(64, 64))
    start = 5 * WARM_UP_EPOCHS
    state = _train_to(plan, state, start)
    lengths = (10, 100) if quick else (10, 100, 1000)
    works = [partial(_train_to, plan, state, start + length) for length in lengths]
    costs = [
        time.best / length
        for time, length in zip(best_times(5 * repeats, *works), lengths, strict=True)
    ]
    for length, cost in zip(lengths, costs, strict=True):
        yield within(f"growth epochs={length}", cost, "s/epoch", "10 epochs", costs[0], None)


def _train_to(plan: Plan, state: TrainState, epochs: int) -> TrainState:
    """The state after so many epochs in all; the one given is kept."""
    state = jax.tree.map(jnp.copy, state)
    while int(state.epoch) < epochs:
        state, *_ = train_chunk(plan, state, np.int32(epochs), PLENTY)
    return state


def _torch_peer(samples: int, bodies: int) -> Any:
    try:
        from benchmark_torch import TorchTraining
    except ImportError:
        return None
    return TorchTraining(samples, bodies)
