"""What a network is taught: the base class of two-phase training and of training on windows.

An objective is a frozen, hashable dataclass, so that it can be a static argument of a compiled
program. It needs four methods: `init` and `chunk` run on the device, `metrics` measures an epoch
there, and `line` puts it in words. All other methods have defaults.
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
from jaxstepper.stepping.scheme import Leapfrog, Scheme
from jaxstepper.training.status import RUNNING


@dataclass(frozen=True)
class State:
    """What the state of every objective holds; a pytree. Subclasses add fields.

    Attributes:
        variables: the network's; only "params" are trained.
        optimizer_state: the optimiser's, for the params.
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
        name: the part that is under way.
        done: the units of it that are done.
        total: all its units; None if unknown.
        figures: a line about it.
    """

    name: str
    done: int
    total: int | None
    figures: str


class Outcome(NamedTuple):
    """A number that sums up a run.

    Attributes:
        key: its name in W&B.
        value: the plain number.
        label: its name on the console; "" keeps it off the console.
        words: its value on the console.
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
"""(state, units used since the last look) -> (a line or "", units until the next look)."""


class Objective:
    """Base class of objectives. A subclass is a frozen dataclass with the fields below.

    Attributes:
        network: the network that is trained, a `StepNetwork` or a module with the same outputs.
        features: its inputs.
        gravity: what moves the bodies.
        scheme: takes the steps of the trained rule.
        optimizer: an optax transformation.
        mesh: the devices that share the systems; None for one device.
        first_budget: the units of work in the first device call, and the fewest in any.
        shares_devices: whether devices and processes may share the systems.
        follows_paths: whether systems move on from epoch to epoch. Only then do `restart` and
            `path` have a meaning.
        in_turn_on_cpu: whether several seeds should take turns on a CPU. Under `vmap`, loops of
            unknown length copy the network in every iteration.
        chosen_by: the metrics that a sweep can compare trials by; the first is the default.
    """

    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    mesh: Mesh | None = None
    scheme: ClassVar[Scheme] = Leapfrog()
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
            variables: those of a network to go on from; otherwise fresh ones.
        """
        raise NotImplementedError

    def chunk(self, state: Any, budget: Array) -> tuple[Any, Array, Bool[Array, ""]]:
        """Continues the epoch on the device until it ends or the budget is used up.

        It must do nothing if the budget is 0 or the status is not `RUNNING`. The result of training
        must not depend on where calls end.

        Returns:
            The state, the rest of the budget, and whether the epoch has ended.
        """
        raise NotImplementedError

    def metrics(self, state: Any) -> Any:
        """The metrics of the epoch that has just ended: a NamedTuple of numbers `[]`."""
        raise NotImplementedError

    def line(self, metrics: Mapping[str, Any]) -> str:
        """An epoch's metrics in words, for the console."""
        names = [name for name in metrics if name not in ("epoch", "epoch_time")]
        return ", ".join(f"{name}={metrics[name]:.4g}" for name in names)

    # --- on the device ---------------------------------------------------------------------------

    def next_epoch(self, state: Any) -> Any:
        """The state at the start of the next epoch, with the same network and optimiser state."""
        return state.replace(epoch=state.epoch + 1)

    def place(self, state: Any) -> Any:
        """Under `jit`: the state with its leaves on the devices where the next call wants them."""
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
        """Plain metrics, with others derived from them."""
        return dict(metrics)

    def figures(self, metrics: Mapping[str, Any]) -> str:
        """An epoch's metrics beside the progress bar."""
        return self.line(metrics)

    def details(self, metrics: Mapping[str, Any]) -> str:
        """An epoch's metrics in the lines of --debug."""
        return self.figures(metrics)

    def summary(self, state: Any, metrics: Mapping[str, Any]) -> list[Outcome]:
        """The outcomes of a run, from its state and last metrics (empty if no epoch ended)."""
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
        """Why training stopped with the status `STUCK`."""
        return f"stuck at {self.where(state)}"

    def complaint(self, state: Any) -> tuple[int, Callable[[], str]]:
        """How bad things are, from 0 (all is well), and a warning for when that rises."""
        return 0, str

    def longest_call(self, bodies: int, systems: int) -> tuple[float, float]:
        """The largest indivisible work of a device call: pairs of bodies, passes of a network."""
        return 0.0, 0.0

    def look(self, every: int, replay_every: int) -> Look | None:
        """What --debug shows within epochs, if anything."""
        return None

    def path(self, state: Any) -> Path:
        """The current states of systems that follow paths."""
        raise NotImplementedError
