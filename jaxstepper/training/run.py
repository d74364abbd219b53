"""The trainer: any objective, in device calls of bounded length."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.machine.devices import whole
from jaxstepper.machine.processes import any_of
from jaxstepper.training.objective import Objective
from jaxstepper.training.status import NOT_FINITE, RUNNING, STOPPED

# Epochs in one device call. The program holds the epoch once, whatever this is.
EPOCHS_PER_CALL = 10
LARGEST_BUDGET = 1_000_000


# --- on the device -------------------------------------------------------------------------------


def run_chunk(
    objective: Objective, state: Any, last_epoch: Array, budget: Array
) -> tuple[Any, Array, Any, Array]:
    """Up to `EPOCHS_PER_CALL` epochs on the device, in one call of bounded length.

    The call ends early, perhaps within an epoch, when `last_epoch` epochs are complete, when
    `budget` units of work are used up, or when the status is a failure. The result of training does
    not depend on where calls end.

    Returns:
        The state; the rest of the budget; metrics `[E]` of E = `EPOCHS_PER_CALL` rows; and which
        rows `[E]` are epochs that ended in this call.
    """

    def epoch(carry: tuple[Any, Array], _: None) -> tuple[Any, tuple[Any, Array]]:
        state, budget = carry
        # Without a budget, an epoch that must not begin ends at once.
        allowed = jnp.where(state.epoch < last_epoch, budget, 0)
        state, left, ended = objective.chunk(state, allowed)
        metrics = objective.metrics(state)
        state = apply_if(ended, objective.next_epoch, state)
        return (state, budget - (allowed - left)), (metrics, ended)

    carry, (metrics, ended) = lax.scan(epoch, (state, budget), length=EPOCHS_PER_CALL)
    state, left = carry
    bad = (state.status == RUNNING) & ~all_finite((state.variables, state.optimizer_state))
    state = state.replace(status=jnp.where(bad, NOT_FINITE, state.status).astype(jnp.int32))
    return objective.place(state), *whole(objective.mesh, (left, metrics, ended))


train_chunk = jax.jit(run_chunk, static_argnames="objective", donate_argnames="state")
"""`run_chunk`, compiled; the state given is donated."""


def apply_if(condition: Bool[Array, ""], change: Callable[[Any], Any], state: Any) -> Any:
    """`change(state)` if the condition holds, with network and optimiser state as they are.

    They stay out of the conditional, which would copy them (30 MB for the default network).
    """
    rest = state.replace(variables={}, optimizer_state=())
    rest = lax.cond(condition, change, lambda same: same, rest)
    return rest.replace(variables=state.variables, optimizer_state=state.optimizer_state)


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether all numbers of a pytree are finite, `[]`."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


# --- on the host ---------------------------------------------------------------------------------


@dataclass
class Member:
    """One training run, alone or as one of several seeds side by side.

    Attributes:
        done: all epochs completed.
        metrics: those of each epoch of this call, as plain numbers.
        stopped: why it ended before the last epoch: "", "interrupted", "retired", "stuck", or
            "not finite".
    """

    done: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""


class Call(NamedTuple):
    """What a device call returns for K members side by side; numpy arrays.

    Attributes:
        status: `[K]`.
        left: `[K]`, the rest of the budget.
        rows: metrics `[K, E]`.
        ended: `[K, E]`, which of the rows are epochs that ended.
    """

    status: np.ndarray
    left: np.ndarray
    rows: Any
    ended: np.ndarray


def in_calls(
    objective: Objective,
    members: Sequence[Member],
    epochs: int,
    call: Callable[[np.int32, np.int32], Call],
    *,
    pause_after: Callable[[int], bool],
    on_epoch: Callable[[Member, dict[str, Any]], None],
    on_pause: Callable[[int], None],
    on_call: Callable[[bool], None],
    interrupted: Callable[[], bool],
    look: Callable[[int], int] | None = None,
) -> None:
    """Trains members until each has completed `epochs` epochs or has stopped, and fills them in.

    `call` makes a device call up to an epoch, within a budget. The hooks are those of `run`, except
    that they get a member, the number of epochs completed, whether the call ended an epoch, and the
    units that the last call used.
    """
    last_end, last_used = time.perf_counter(), 0

    def next_call(budget: int) -> tuple[int, bool]:
        nonlocal last_end, last_used
        working = [each for each in members if not each.stopped and each.done < epochs]
        if working and any_of(interrupted()):
            for each in working:
                each.stopped = "interrupted"
            return 0, False
        if not working:
            return 0, False
        first = min(each.done for each in working) + 1
        last = first
        while last < epochs and not pause_after(last - 1):
            last += 1
        allowed = budget if look is None else min(budget, look(last_used))
        end = last if look is None else first
        status, left, rows, ended = call(np.int32(end), np.int32(allowed))
        now = time.perf_counter()
        count = int(np.max(np.sum(ended, axis=1)))
        for k, member in enumerate(members):
            for row in np.flatnonzero(ended[k]):
                values = {name: value[k][row].item() for name, value in rows._asdict().items()}
                values["epoch_time"] = (now - last_end) / count
                member.metrics.append(objective.plain(values))
                member.done += 1
                on_epoch(member, member.metrics[-1])
            member.stopped = member.stopped or STOPPED.get(int(status[k]), "")
        last_end = now if count else last_end
        last_used = allowed - int(np.min(left))
        if all(each.stopped == "not finite" for each in members):
            return last_used, False
        there = [each for each in members if each.done == last and each.stopped != "not finite"]
        behind = [each for each in members if each.done < last and not each.stopped]
        if count and there and not behind:
            on_pause(last)
        on_call(count > 0)
        return last_used, True

    in_bounded_calls(next_call, objective.first_budget, LARGEST_BUDGET)


class Result(NamedTuple):
    """The result of a training run.

    Attributes:
        epochs: all epochs completed, those before a resumption included.
        total_time: seconds that this call took.
        metrics: those of the last epoch, as plain numbers; empty if none has ended.
        state: the last state.
        stopped: why it ended before the last epoch: "", "interrupted", "retired", "stuck", or
            "not finite".
        history: the metrics of every epoch of this call.
    """

    epochs: int
    total_time: float
    metrics: dict[str, Any]
    state: Any
    stopped: str
    history: list[dict[str, Any]]


def run(
    objective: Objective,
    state: Any,
    epochs: int,
    *,
    metrics: dict[str, Any] | None = None,
    pause_after: Callable[[int], bool] = lambda epoch: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_pause: Callable[[Any, dict[str, Any]], Any] = lambda state, metrics: state,
    on_call: Callable[[Any, dict[str, Any]], None] = lambda state, metrics: None,
    interrupted: Callable[[], bool] = lambda: False,
    look: Callable[[Any, int], int] | None = None,
) -> Result:
    """Trains until `epochs` epochs are complete, in device calls of bounded length.

    Args:
        objective: what is trained.
        state: where it stands; donated.
        epochs: the number of epochs, counted from the start of the run.
        metrics: those of the last epoch before this call, if a run is resumed.
        pause_after: whether training pauses after an epoch (counted from 0) for `on_pause`; it
            always does after the last.
        on_epoch: gets the metrics of every epoch, in order.
        on_pause: gets the state between epochs and the last metrics, to save it or to change its
            systems; returns the state to go on with.
        on_call: gets the state and the last metrics after every device call, to save it.
        interrupted: says before every device call whether to stop.
        look: gets the state before every device call, and the units of work that the last one used;
            returns the most that the next may use. Calls then end with their epochs.

    Returns:
        The result. The state of a run that stops early may be in the middle of an epoch.
    """
    began, warned = time.perf_counter(), 0
    metrics = {} if metrics is None else metrics
    member = Member(int(state.epoch))

    def call(last: np.int32, budget: np.int32) -> Call:
        nonlocal state
        state, *told = train_chunk(objective, state, last, budget)
        outcome = (state.status, *told)
        return Call(*jax.tree.map(lambda x: np.asarray(x)[None], jax.device_get(outcome)))

    def note(_: Member, latest: dict[str, Any]) -> None:
        nonlocal metrics
        metrics = latest
        on_epoch(latest)

    def pause(_: int) -> None:
        nonlocal state
        state = on_pause(state, metrics)

    def after(ended: bool) -> None:
        nonlocal warned
        bad, words = objective.complaint(state)
        if bad > (0 if ended else warned):
            warnings.warn(words(), RuntimeWarning, stacklevel=2)
        warned = bad
        on_call(state, metrics)

    in_calls(
        objective,
        [member],
        epochs,
        call,
        pause_after=pause_after,
        on_epoch=note,
        on_pause=pause,
        on_call=after,
        interrupted=interrupted,
        look=None if look is None else lambda used: look(state, used),
    )
    seconds = time.perf_counter() - began
    return Result(member.done, seconds, metrics, state, member.stopped, member.metrics)
