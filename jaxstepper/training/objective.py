"""What a network is taught: an `Objective`, of which two-phase training and windows are two.

An objective is a frozen dataclass, hashable, so that it can be a static argument of a compiled
program. Four methods make one: `init` and `chunk` run on the device, `metrics` measures an epoch
there, and `line` says it in words. The others have defaults, and say more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.training.status import RUNNING


@dataclass(frozen=True)
class State:
    """What every objective's state holds; a pytree. Subclasses add fields of their own.

    Attributes:
        variables: of the network; only "params" are trained.
        optimizer_state: of the objective's optimiser, for the params.
        key: raw random key.
        epoch: `[]`, epochs completed.
        status: `[]`, a result code.
    """

    variables: Variables
    optimizer_state: optax.OptState
    key: Array
    epoch: Int[Array, ""]
    status: Int[Array, ""]

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed."""
        return replace(self, **changes)


def fresh(optimizer: optax.GradientTransformation, variables: Variables, key: Array) -> dict:
    """The fields of a `State` before the first epoch."""
    return {
        "variables": variables,
        "optimizer_state": optimizer.init(variables["params"]),
        "key": key,
        "epoch": jnp.zeros((), jnp.int32),
        "status": jnp.asarray(RUNNING, jnp.int32),
    }


class Part(NamedTuple):
    """How far an epoch has come, for a progress bar.

    Attributes:
        name: of the part that is under way.
        done: units of it that are done.
        total: units in all; None if nobody knows.
        figures: a line on it.
    """

    name: str
    done: int
    total: int | None
    figures: str


class Outcome(NamedTuple):
    """A number that sums up a run.

    Attributes:
        key: its name in W&B.
        value: plain.
        label: its name on the console; "" if it does not appear there.
        words: the value on the console.
    """

    key: str
    value: Any
    label: str = ""
    words: str = ""


class Path(NamedTuple):
    """The first system's current state, for a movie of training; numpy or device arrays.

    Attributes:
        mass: `[B, N]`.
        time: `[B]`.
        dt: `[B]`.
        position: `[B, N, D]`.
        velocity: `[B, N, D]`.
        energy: `[B]`.
    """

    mass: Array
    time: Array
    dt: Array
    position: Array
    velocity: Array
    energy: Array


Look = Callable[[Any, int], tuple[str, int]]
"""(state, units used since the last look) -> a line, or "", and units until the next look."""


class Objective:
    """Base class of objectives. A subclass is a frozen dataclass with the fields below.

    Attributes:
        network: the network that is trained, a `StepNetwork` or a module with the same outputs.
        features: its inputs.
        gravity: what moves the bodies.
        optimizer: an optax transformation.
        mesh: the devices that share the systems; None for one device.
        first_budget: units of work in the first device call, and the fewest in any.
        shares_devices: whether devices and processes may share the systems.
        follows_paths: whether systems move on from epoch to epoch, so that `restart` and `path`
            have a meaning.
        in_turn_on_cpu: whether several seeds should take turns on a CPU. Loops of unknown length
            copy the network at every turn under `vmap`.
        chosen_by: the metrics that a sweep can compare trials by; the first is the default.
    """

    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    mesh: Mesh | None = None
    first_budget: ClassVar[int] = 1
    shares_devices: ClassVar[bool] = False
    follows_paths: ClassVar[bool] = False
    in_turn_on_cpu: ClassVar[bool] = False
    chosen_by: ClassVar[tuple[str, ...]] = ("loss",)

    # --- the four that make an objective ---------------------------------------------------------

    def init(self, tables: np.ndarray, key: Array, variables: Variables | None = None) -> Any:
        """The state before the first epoch.

        Args:
            tables: initial conditions `[B, N, 1 + 2 D]`.
            key: raw random key.
            variables: of a network to go on from; fresh ones otherwise.
        """
        raise NotImplementedError

    def chunk(self, state: Any, budget: Array) -> tuple[Any, Array, Bool[Array, ""]]:
        """Goes on with the current epoch, on the device, until it ends or the budget is used up.

        Must do nothing when the budget is 0 or the status is not `RUNNING`. What training comes to
        must not depend on where calls end.

        Returns:
            The state, what is left of the budget, and whether the epoch has ended.
        """
        raise NotImplementedError

    def metrics(self, state: Any) -> Any:
        """What the epoch that has just ended came to: a NamedTuple of numbers `[]`."""
        raise NotImplementedError

    def line(self, metrics: Mapping[str, Any]) -> str:
        """An epoch's metrics in words, for the console."""
        names = [name for name in metrics if name not in ("epoch", "epoch_time")]
        return ", ".join(f"{name}={metrics[name]:.4g}" for name in names)

    # --- on the device ---------------------------------------------------------------------------

    def next_epoch(self, state: Any) -> Any:
        """The state at the start of the next epoch. May not touch the network or its optimiser."""
        return state.replace(epoch=state.epoch + 1)

    def place(self, state: Any) -> Any:
        """Under `jit`: the state, its leaves on the devices where the next call expects them."""
        return state

    def restart(self, state: Any, tables: np.ndarray) -> Any:
        """The state, between epochs, with its systems at the start of new paths."""
        raise NotImplementedError

    @classmethod
    def value(cls, name: str, metrics: Mapping[str, Any]) -> float:
        """The metric of an epoch that trials are compared by; `name` is one of `chosen_by`."""
        return float(metrics[name])

    # --- in words --------------------------------------------------------------------------------

    def plain(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Plain metrics, with what follows from them."""
        return dict(metrics)

    def figures(self, metrics: Mapping[str, Any]) -> str:
        """An epoch beside its progress bar."""
        return self.line(metrics)

    def details(self, metrics: Mapping[str, Any]) -> str:
        """An epoch in the lines of --debug."""
        return self.figures(metrics)

    def summary(self, state: Any, metrics: Mapping[str, Any]) -> list[Outcome]:
        """What a run came to, from its state and its last metrics (empty if no epoch ended)."""
        names = self.chosen_by if metrics else ()
        return [Outcome(f"final/{n}", metrics[n], f"final {n}", f"{metrics[n]:.4g}") for n in names]

    def wandb_keys(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics of an epoch under their W&B keys."""
        return dict(metrics)

    def part(self, state: Any) -> Part | None:
        """How far the current epoch has come, if it takes more than one call."""
        return None

    def where(self, state: Any) -> str:
        """The place in training, for messages."""
        return f"epoch {int(state.epoch)}"

    def why_stuck(self, state: Any) -> str:
        """Why training stopped with the status `STUCK`, and what to do."""
        return f"stuck at {self.where(state)}"

    def complaint(self, state: Any) -> tuple[int, Callable[[], str]]:
        """How bad things are, 0 for well, and words; training warns when the number rises."""
        return 0, str

    def longest_call(self, bodies: int, systems: int) -> tuple[float, float]:
        """The most that a device call must do at once, which nothing can interrupt.

        Returns:
            The pairs of bodies it looks at, and the passes of a state through the network.
        """
        return 0.0, 0.0

    def look(self, every: int, replay_every: int) -> Look | None:
        """What --debug shows between epochs, if anything."""
        return None

    def path(self, state: Any) -> Path:
        """The systems' current states, if they follow paths."""
        raise NotImplementedError
