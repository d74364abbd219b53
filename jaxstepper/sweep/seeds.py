"""Several seeds of one run, trained at once: a training is a pure function, so `vmap` repeats it.

Every seed has initial conditions, weights and random draws of its own, and comes to what a run of
that seed alone comes to, up to rounding, which grows where bodies move chaotically. Loops run until
the slowest seed leaves them; the others wait there unchanged, which costs a copy of network and
optimiser at every turn. An objective whose work is such loops says so (`in_turn_on_cpu`): on a CPU,
where a copy costs as much as the work, its seeds then take turns in the same program.
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
"""The scales of each seed's features; None where all have those of the objective."""


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
        starts: the runs before their first epoch, prepared not to share devices.
        given: the names of the options that were set explicitly.
        at_once: whether seeds go by `vmap` rather than take turns; by default as the objective
            and the platform have it.
        on_call: told what there is after every device call; what it raises ends the training.
        interrupted: asked before every device call whether to leave.

    Raises:
        UserError: the runs are not of one program.
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
            fresh = (
                start.objective.restart(states.member(k), tables[k])
                for k, start in enumerate(starts)
            )
            states = _stack(list(fresh))

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
    """`run_chunk` for the leaves `[K, ...]` of all seeds' states, which are donated.

    Returns leaves, and what makes a `Call`.
    """

    def of_seed(scales: Any, leaves: list[Array], last: Array, budget: Array) -> tuple:
        own = _with_scales(objective, scales)
        state, *told = run_chunk(own, jax.tree.unflatten(structure, leaves), last, budget)
        return jax.tree.leaves(state), state.status, *told

    def in_turn(scales: Any, leaves: list[Array], last: Array, budget: Array) -> tuple:
        return lax.map(lambda each: of_seed(each[0], each[1], last, budget), (scales, leaves))

    every = jax.vmap(of_seed, (0, 0, None, None)) if at_once else in_turn
    return jax.jit(every, donate_argnums=1)


def _common_objective(objectives: list[Any]) -> tuple[Any, PerSeed]:
    """The objective of all, and the scales in which they differ: those of their initial states."""
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
