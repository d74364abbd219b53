"""Several seeds of one run, trained at once: a training is a pure function, so `vmap` repeats it.

Every seed has initial conditions, weights and random draws of its own, and comes to what a run of
that seed alone comes to, but for rounding. Loops run until the slowest seed leaves them; the others
wait there unchanged.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxstepper import setup
from jaxstepper.errors import UserError
from jaxstepper.features import Scales
from jaxstepper.prepare import Start, fresh_tables, is_fresh
from jaxstepper.train_state import RUNNING, Plan, restart
from jaxstepper.training import FIRST_BUDGET, STOPPED, next_budget, plain_metrics, run_chunk
from jaxstepper.window_training import WindowPlan, run_epoch

AnyPlan = TypeVar("AnyPlan", Plan, WindowPlan)
PerSeed = Float[Array | np.ndarray, "K 4"] | None
"""The scales of each seed's features; None where all have those of the plan."""


@dataclass
class SeedRun:
    """What the training of one seed came to.

    Attributes:
        metrics: of each of its epochs, as plain numbers.
        stopped: why it ended before the last epoch, as in `TrainingResult`.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""


class SeedsResult(NamedTuple):
    """What the seeds came to.

    Attributes:
        runs: K of them.
        states: their states, all leaves `[K, ...]`; `member` takes one.
    """

    runs: list[SeedRun]
    states: Any


def train_seeds(
    starts: Sequence[Start],
    given: Collection[str] = (),
    *,
    on_call: Callable[[list[SeedRun]], None] = lambda runs: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> SeedsResult:
    """Trains K runs that differ in their seeds alone, in one program, on one device.

    Args:
        starts: the runs before their first epoch, prepared not to share devices.
        given: the names in their config that were given explicitly.
        on_call: told what there is after every device call; what it raises ends the training.
        interrupted: asked before every device call whether to leave.

    Raises:
        UserError: the runs are not of one program.
    """
    plan, scales = _common_plan([start.plan for start in starts])
    stack = jax.jit(lambda states: jax.tree.map(lambda *x: jax.numpy.stack(x), *states))
    states = stack([start.state for start in starts])
    runs = [SeedRun() for _ in starts]
    tell = partial(on_call, runs)
    if isinstance(plan, WindowPlan):
        epochs = starts[0].config.epochs
        states = _train_on_windows(plan, scales, states, runs, epochs, tell, interrupted)
    else:
        states = _train_in_two_phases(plan, scales, states, runs, starts, given, tell, interrupted)
    return SeedsResult(runs, states)


def member(states: Any, index: int) -> Any:
    """The state of one seed, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], jax.device_get(states))


def _common_plan(plans: list[Any]) -> tuple[Plan | WindowPlan, PerSeed]:
    """The plan of all, and the scales in which they differ: those of their initial states."""
    if all(plan == plans[0] for plan in plans):
        return plans[0], None
    each = [plan.features.scales for plan in plans]
    scales = np.array([[s.length, s.speed, s.acceleration, s.time] for s in each])
    bare = [replace(plan, features=replace(plan.features, scales=Scales())) for plan in plans]
    if any(plan != bare[0] for plan in bare):
        raise UserError(
            "the bodies of some seeds are bound pairs and those of others are not, so that their "
            "windows differ; give an eccentricity, or train one seed"
        )
    return bare[0], scales.astype(plans[0].network.dtype)


def _with_scales(plan: AnyPlan, scales: Float[Array, "4"] | None) -> AnyPlan:
    if scales is None:
        return plan
    return replace(plan, features=replace(plan.features, scales=Scales(*scales)))


def _train_in_two_phases(
    plan: Plan,
    scales: PerSeed,
    states: Any,
    runs: list[SeedRun],
    starts: Sequence[Start],
    given: Collection[str],
    tell: Callable[[], None],
    interrupted: Callable[[], bool],
) -> Any:
    """As `run_two_phase_training`; a seed that has failed, or is ahead, waits for the others."""
    config = starts[0].config

    def of_seed(scales: Any, state: Any, last: Array, budget: Array) -> tuple:
        return run_chunk(_with_scales(plan, scales), state, last, budget)

    def again(scales: Any, state: Any, tables: Array, ends: Array) -> Any:
        return restart(_with_scales(plan, scales), state, tables, ends)

    call = jax.jit(jax.vmap(of_seed, (0, 0, None, None)), donate_argnums=1)
    renew = jax.jit(jax.vmap(again))
    budget = FIRST_BUDGET
    while working := [run for run in runs if not run.stopped and len(run.metrics) < config.epochs]:
        if interrupted():
            return _stop(states, working)
        last = min(len(run.metrics) for run in working) + 1
        while last < config.epochs and not is_fresh(config, last):
            last += 1
        began = time.perf_counter()
        states, left, rows, ended = call(scales, states, np.int32(last), np.int32(budget))
        rows, ended, left, status = jax.device_get((rows, ended, left, states.status))
        seconds = time.perf_counter() - began
        each = seconds / max(1, int(np.max(np.sum(ended, axis=1))))
        for k, run in enumerate(runs):
            own = jax.tree.map(lambda leaf, k=k: leaf[k], rows)
            run.metrics += [plain_metrics(own, int(row), each) for row in np.flatnonzero(ended[k])]
            run.stopped = STOPPED.get(int(status[k]), "")
        budget = next_budget(budget, budget - int(np.min(left)), seconds)
        tell()
        if is_fresh(config, last) and all(len(run.metrics) == last for run in _alive(runs)):
            tables = [fresh_tables(start.config, given, start.tables, last) for start in starts]
            ends = [setup.end_times(config, each) for each in tables]
            dtype = plan.network.dtype
            states = renew(scales, states, np.array(tables, dtype), np.array(ends, dtype))
    return states


def _alive(runs: list[SeedRun]) -> list[SeedRun]:
    return [run for run in runs if not run.stopped]


def _stop(states: Any, working: list[SeedRun]) -> Any:
    for run in working:
        run.stopped = "interrupted"
    return states


def _train_on_windows(
    plan: WindowPlan,
    scales: PerSeed,
    states: Any,
    runs: list[SeedRun],
    epochs: int,
    tell: Callable[[], None],
    interrupted: Callable[[], bool],
) -> Any:
    """As `run_window_training`."""

    def of_seed(imitate: bool, scales: Any, state: Any) -> tuple:
        return run_epoch(_with_scales(plan, scales), state, imitate)

    calls = {
        imitate: jax.jit(jax.vmap(partial(of_seed, imitate)), donate_argnums=1)
        for imitate in (True, False)
    }
    for epoch in range(epochs):
        working = _alive(runs)
        if working and interrupted():
            return _stop(states, working)
        if not working:
            break
        began = time.perf_counter()
        states, values = calls[epoch < plan.imitation](scales, states)
        values, status = jax.device_get((values, states.status))
        seconds = time.perf_counter() - began
        for k, run in enumerate(runs):
            if not run.stopped:
                own = {name: value[k].item() for name, value in values._asdict().items()}
                run.metrics.append({**own, "epoch_time": seconds})
                run.stopped = "" if status[k] == RUNNING else STOPPED[int(status[k])]
        tell()
    return states
