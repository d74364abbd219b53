"""Several seeds of one run, trained at once: a training is a pure function, so `vmap` repeats it.

Every seed has initial conditions, weights and random draws of its own, and comes to what a run of
that seed alone comes to, but for rounding, which three bodies, being chaotic, make more of in time.
Loops run until the slowest seed leaves them; the others wait there unchanged, which costs a copy of
network and optimiser at every turn. Two-phase training is all such loops: on a CPU, where a copy is
as dear as the work, its seeds take turns instead, in the same program.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.machine.call_budget import next_budget
from jaxstepper.network.features import Scales
from jaxstepper.runs.bodies import end_times
from jaxstepper.runs.start import Start, fresh_tables, is_fresh
from jaxstepper.training.two_phase.run import (
    FIRST_BUDGET,
    LARGEST_BUDGET,
    STOPPED,
    plain_metrics,
    run_chunk,
)
from jaxstepper.training.two_phase.state import RUNNING, Plan, TrainState, restart
from jaxstepper.training.windows.run import WindowPlan, WindowState, run_epoch

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


@dataclass(frozen=True)
class SeedStates:
    """The states of K seeds, side by side.

    Attributes:
        leaves: of the states, each `[K, ...]`.
        structure: of each state.
    """

    leaves: list[Array]
    structure: Any

    def member(self, index: int) -> Any:
        """The state of one seed."""
        own = [jnp.asarray(np.asarray(leaf)[index]) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, own)


class SeedsResult(NamedTuple):
    """What the seeds came to."""

    runs: list[SeedRun]
    states: SeedStates


def train_seeds(
    starts: Sequence[Start],
    given: Collection[str] = (),
    *,
    at_once: bool | None = None,
    on_call: Callable[[list[SeedRun]], None] = lambda runs: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> SeedsResult:
    """Trains K runs that differ in their seeds alone, in one program, on one device.

    Args:
        starts: the runs before their first epoch, prepared not to share devices.
        given: the names in their config that were given explicitly.
        at_once: whether two-phase training goes by `vmap`; if not, seeds take turns. By default
            they do on a CPU alone. Window training always goes by `vmap`.
        on_call: told what there is after every device call; what it raises ends the training.
        interrupted: asked before every device call whether to leave.

    Raises:
        UserError: the runs are not of one program.
    """
    plan, scales = _common_plan([start.plan for start in starts])
    states = _stack([start.state for start in starts])
    runs = [SeedRun() for _ in starts]
    tell = partial(on_call, runs)
    if isinstance(plan, WindowPlan):
        epochs = starts[0].config.epochs
        states = _train_on_windows(plan, scales, states, runs, epochs, tell, interrupted)
    else:
        if at_once is None:
            at_once = next(iter(states.leaves[0].devices())).platform != "cpu"
        states = _train_in_two_phases(
            plan, scales, states, runs, starts, given, at_once, tell, interrupted
        )
    return SeedsResult(runs, states)


def _stack(states: Sequence[Any]) -> SeedStates:
    stack = jax.jit(lambda each: [jnp.stack(leaves) for leaves in zip(*each, strict=True)])
    return SeedStates(stack([jax.tree.leaves(x) for x in states]), jax.tree.structure(states[0]))


def _for_each(
    function: Callable[..., tuple], states: SeedStates, at_once: bool
) -> Callable[..., tuple]:
    """`function(scales, state, own, shared)`, which returns a state and more, for all seeds.

    It takes and returns the leaves `[K, ...]` of the states, those given being donated; `own` is
    `[K, ...]` too, and `shared` is the same for all.
    """

    def of_seed(scales: Any, leaves: list[Array], own: tuple, shared: tuple) -> tuple:
        state, *more = function(scales, jax.tree.unflatten(states.structure, leaves), own, shared)
        return jax.tree.leaves(state), *more

    def in_turn(scales: Any, leaves: list[Array], own: tuple, shared: tuple) -> tuple:
        def one(each: tuple[Any, list[Array], tuple]) -> tuple:
            return of_seed(each[0], each[1], each[2], shared)

        return lax.map(one, (scales, leaves, own))

    every = jax.vmap(of_seed, (0, 0, 0, None)) if at_once else in_turn
    return jax.jit(every, donate_argnums=1)


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
    states: SeedStates,
    runs: list[SeedRun],
    starts: Sequence[Start],
    given: Collection[str],
    at_once: bool,
    tell: Callable[[], None],
    interrupted: Callable[[], bool],
) -> SeedStates:
    """As `run_two_phase_training`; a seed that has failed, or is ahead, waits for the others."""
    config = starts[0].config

    def chunk(scales: Any, state: TrainState, own: tuple, shared: tuple) -> tuple:
        state, *rest = run_chunk(_with_scales(plan, scales), state, *shared)
        return state, state.status, *rest

    def again(scales: Any, state: TrainState, own: tuple, shared: tuple) -> tuple[TrainState]:
        return (restart(_with_scales(plan, scales), state, *own),)

    call, renew = _for_each(chunk, states, at_once), _for_each(again, states, at_once)
    leaves, budget = states.leaves, FIRST_BUDGET
    while working := [run for run in runs if not run.stopped and len(run.metrics) < config.epochs]:
        if interrupted():
            _stop(working)
            break
        last = min(len(run.metrics) for run in working) + 1
        while last < config.epochs and not is_fresh(config, last):
            last += 1
        began = time.perf_counter()
        leaves, *outcome = call(scales, leaves, (), (np.int32(last), np.int32(budget)))
        status, left, rows, ended = jax.device_get(outcome)
        seconds = time.perf_counter() - began
        each = seconds / max(1, int(np.max(np.sum(ended, axis=1))))
        for k, run in enumerate(runs):
            own = jax.tree.map(lambda leaf, k=k: leaf[k], rows)
            run.metrics += [plain_metrics(own, int(row), each) for row in np.flatnonzero(ended[k])]
            run.stopped = STOPPED.get(int(status[k]), "")
        used = budget - int(np.min(left))
        budget = next_budget(budget, used, seconds, FIRST_BUDGET, LARGEST_BUDGET)
        tell()
        if is_fresh(config, last) and all(len(run.metrics) == last for run in _alive(runs)):
            tables = [fresh_tables(start.config, given, start.tables, last) for start in starts]
            ends = [end_times(config, each) for each in tables]
            dtype = plan.network.dtype
            fresh = np.array(tables, dtype), np.array(ends, dtype)
            (leaves,) = renew(scales, leaves, fresh, ())
    return replace(states, leaves=leaves)


def _alive(runs: list[SeedRun]) -> list[SeedRun]:
    return [run for run in runs if not run.stopped]


def _stop(working: list[SeedRun]) -> None:
    for run in working:
        run.stopped = "interrupted"


def _train_on_windows(
    plan: WindowPlan,
    scales: PerSeed,
    states: SeedStates,
    runs: list[SeedRun],
    epochs: int,
    tell: Callable[[], None],
    interrupted: Callable[[], bool],
) -> SeedStates:
    """As `run_window_training`; a seed that has failed goes along, and is not looked at."""

    def epoch_of(
        imitate: bool, scales: Any, state: WindowState, own: tuple, shared: tuple
    ) -> tuple:
        state, metrics = run_epoch(_with_scales(plan, scales), state, imitate)
        return state, state.status, metrics

    imitating, training = (
        _for_each(partial(epoch_of, imitate), states, True) for imitate in (True, False)
    )
    leaves = states.leaves
    for epoch in range(epochs):
        working = _alive(runs)
        if working and interrupted():
            _stop(working)
        if not _alive(runs):
            break
        began = time.perf_counter()
        train = imitating if epoch < plan.imitation else training
        leaves, *outcome = train(scales, leaves, (), ())
        status, values = jax.device_get(outcome)
        seconds = time.perf_counter() - began
        for k, run in enumerate(runs):
            if not run.stopped:
                own = {name: value[k].item() for name, value in values._asdict().items()}
                run.metrics.append({**own, "epoch_time": seconds})
                run.stopped = "" if status[k] == RUNNING else STOPPED[int(status[k])]
        tell()
    return replace(states, leaves=leaves)
