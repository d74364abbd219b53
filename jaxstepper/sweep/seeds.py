"""Trains several seeds of one run at once: training is a pure function, so `vmap` repeats it.

Every seed has its own initial conditions, weights and random draws. It gets the result of a run of
that seed alone, up to rounding, which grows where bodies move chaotically. A loop runs until the
slowest seed leaves it, and in every iteration copies the network and optimiser state of those that
wait. On a CPU such a copy costs as much as the work, so there the seeds of an objective that
consists of such loops (`in_turn_on_cpu`) take turns in the same program.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.network.features import Scales
from jaxstepper.runs.start import Start, fresh_tables, is_fresh
from jaxstepper.training.run import Call, Member, in_calls, run_chunk

PerSeed = Float[Array | np.ndarray, "K 4"] | None
"""The feature scales of each seed; None if all seeds have those of the objective."""


@dataclass(frozen=True)
class SeedStates:
    """The states of K seeds, side by side.

    Attributes:
        leaves: those of the states, each `[K, ...]`.
        structure: the tree structure of one state.
    """

    leaves: list[Array]
    structure: Any

    def member(self, index: int) -> Any:
        """The state of one seed."""
        own = [jnp.asarray(np.asarray(leaf)[index]) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, own)


class SeedsResult(NamedTuple):
    """The results and the last states of all seeds."""

    runs: Sequence[Member]
    states: SeedStates


def train_seeds(
    starts: Sequence[Start],
    given: Collection[str] = (),
    *,
    at_once: bool | None = None,
    on_call: Callable[[Sequence[Member]], None] = lambda runs: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> SeedsResult:
    """Trains K runs that differ only in their seeds, in one program, on one device.

    Args:
        starts: the runs before their first epoch, each on one device.
        given: the names of the options that were set explicitly.
        at_once: whether to use `vmap` instead of taking turns; by default, the objective and the
            platform decide.
        on_call: gets all runs after every device call; an exception that it raises ends training.
        interrupted: says before every device call whether to stop.

    Raises:
        UserError: the runs need different programs.
    """
    objective, scales = _common_objective([start.objective for start in starts])
    states = _stack([start.state for start in starts])
    if at_once is None:
        on_cpu = next(iter(states.leaves[0].devices())).platform == "cpu"
        at_once = not (objective.in_turn_on_cpu and on_cpu)
    config, chunk = starts[0].config, _chunk_of_all(objective, states.structure, at_once)
    members = [Member() for _ in starts]

    def call(last: np.int32, budget: np.int32) -> Call:
        nonlocal states
        leaves, *told = chunk(scales, states.leaves, last, budget)
        states = replace(states, leaves=leaves)
        return Call(*jax.device_get(told))

    def pause(done: int) -> None:
        nonlocal states
        if is_fresh(config, objective, done):
            tables = [fresh_tables(start.config, given, start.tables, done) for start in starts]
            each = enumerate(zip(starts, tables, strict=True))
            states = _stack([s.objective.restart(states.member(k), t) for k, (s, t) in each])

    in_calls(
        objective,
        members,
        config.epochs,
        call,
        pause_after=lambda epoch: is_fresh(config, objective, epoch + 1),
        on_epoch=lambda member, metrics: None,
        on_pause=pause,
        on_call=lambda ended: on_call(members),
        interrupted=interrupted,
    )
    return SeedsResult(members, states)


def _stack(states: Sequence[Any]) -> SeedStates:
    stack = jax.jit(lambda each: [jnp.stack(leaves) for leaves in zip(*each, strict=True)])
    return SeedStates(stack([jax.tree.leaves(x) for x in states]), jax.tree.structure(states[0]))


def _chunk_of_all(objective: Any, structure: Any, at_once: bool) -> Callable[..., tuple]:
    """`run_chunk` for the donated leaves `[K, ...]` of all states; returns leaves and a `Call`."""

    def of_seed(scales: Any, leaves: list[Array], last: Array, budget: Array) -> tuple:
        own = _with_scales(objective, scales)
        state, *told = run_chunk(own, jax.tree.unflatten(structure, leaves), last, budget)
        return jax.tree.leaves(state), state.status, *told

    def in_turn(scales: Any, leaves: list[Array], last: Array, budget: Array) -> tuple:
        return lax.map(lambda each: of_seed(each[0], each[1], last, budget), (scales, leaves))

    every = jax.vmap(of_seed, (0, 0, None, None)) if at_once else in_turn
    return jax.jit(every, donate_argnums=1)


def _common_objective(objectives: list[Any]) -> tuple[Any, PerSeed]:
    """The objective that all seeds share, and the feature scales in which they may differ."""
    if all(each == objectives[0] for each in objectives):
        return objectives[0], None
    each = [objective.features.scales for objective in objectives]
    scales = np.array([[s.length, s.speed, s.acceleration, s.time] for s in each])
    bare = [replace(x, features=replace(x.features, scales=Scales())) for x in objectives]
    if any(objective != bare[0] for objective in bare):
        raise UserError(
            "the bodies of some seeds are bound pairs and those of others are not, so that their "
            "windows differ; give an eccentricity, or train one seed"
        )
    return bare[0], scales.astype(objectives[0].network.dtype)


def _with_scales(objective: Any, scales: Float[Array, "4"] | None) -> Any:
    if scales is None:
        return objective
    return replace(objective, features=replace(objective.features, scales=Scales(*scales)))
