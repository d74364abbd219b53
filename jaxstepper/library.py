"""Training from a program: `train`, the counterpart of the command.

As with `jaxstepper train`, options become a checked request, the request becomes an objective and a
state, and the trainer trains them. A program may also provide bodies as arrays, a Flax module, an
optax optimiser, a force, or an objective of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxstepper.errors import UserError, require
from jaxstepper.network.learned import DEFAULT_TOLERANCE, learned_rule
from jaxstepper.network.learned_criterion import LearnedCriterion
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, to_table
from jaxstepper.physics.precision import check_precision
from jaxstepper.physics.tables import validate_table
from jaxstepper.reporting.bars import open_bars
from jaxstepper.reporting.notebook_bars import NotebookBars, is_notebook
from jaxstepper.reporting.training_bars import TrainingBars
from jaxstepper.runs import folders
from jaxstepper.runs.lock import locked
from jaxstepper.runs.models import DEFAULT_ETA
from jaxstepper.runs.objectives import KINDS, Overrides
from jaxstepper.runs.places import check_run_place
from jaxstepper.runs.resume import OF_A_PART, what_was_set
from jaxstepper.runs.start import Start, start_run
from jaxstepper.runs.units import attracting, with_G_of_units
from jaxstepper.runs.writer import save_run
from jaxstepper.settings.command_line import combine
from jaxstepper.settings.config import OPTIONS, read_option
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import to_dict
from jaxstepper.settings.values import nearest
from jaxstepper.stepping.rule import Number, Rule
from jaxstepper.training.evolution.objective import Evolution
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result, run

# Defaults that train a good rule from a few systems in a minute or two.
WINDOWS = {
    "objective": "window",
    "lr": 4e-3,
    "window_steps": 256,
    "window_length": 4.0,
}
EPOCHS = 60


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes:
        start: the run before its first epoch: config, bodies and objective.
        result: the state, the time that training took, and why it stopped, if it did.
        about: notes on the run, for checkpoints.
    """

    start: Start
    result: Result
    about: Mapping[str, Any]

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The metrics of training, each `[E]` for E epochs; fit for a data frame."""
        rows = self.result.history
        return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}

    @property
    def stopped(self) -> str:
        """Why training ended before the last epoch, or "": "stuck", "not finite", "interrupted"."""
        return self.result.stopped

    def rule(self, gravity: Gravity | None = None, tolerance: float = DEFAULT_TOLERANCE) -> Rule:
        """The trained step-size rule.

        Args:
            gravity: the force that moves the bodies; that of the training by default.
            tolerance: energy error to aim for, if the network has such an input.

        Raises:
            UserError: it was trained for individual steps; `criterion` is for those.
        """
        message = "this network was trained for individual steps: criterion() has them, not rule()"
        require(not isinstance(self.start.objective, Evolution), message)
        objective, variables = self.start.objective, self.result.state.variables
        gravity = gravity or objective.gravity
        network, features, scheme = objective.network, objective.features, objective.scheme
        return learned_rule(network, features, gravity, variables, tolerance, scheme)

    def criterion(self, eta: Number = DEFAULT_ETA) -> LearnedCriterion:
        """The trained criterion for individual steps.

        Args:
            eta: the error of a given time goes about as its square, as with Aarseth's criterion.

        Raises:
            UserError: it was trained for steps that all bodies share; `rule` is for those.
        """
        objective = self.start.objective
        message = "this network was trained for shared steps: rule() has them, not criterion()"
        require(isinstance(objective, Evolution), message)
        return LearnedCriterion(objective.network, self.result.state.variables, eta)

    def save(self, path: str | Path) -> Path:
        """Writes a run for `load_rule`, `--model-path`, `plot` and `export`; returns its folder.

        Raises:
            UserError: there is a run already, the place cannot be written, or no epoch has ended.
        """
        folder = Path(path)
        check_run_place(folder)
        message = f"{folder}: there is a run of this name; choose another"
        require(not folders.paths_of(folder), message)
        state, history = self.result.state, self.result.history
        require(len(history) > 0, f"{folder}: no epoch has ended, so there is nothing to save")
        place = {"save_name": folder.name, "checkpoint_dir": str(folder.parent)}
        config = to_dict(self.start.config) | place
        with locked(folder):
            save_run(folder, state, self.start.tables, history, config=config, about=self.about)
        return folder


def train(
    bodies: ArrayLike | Sequence[Any] | Particles | None = None,
    *,
    gravity: Gravity | None = None,
    network: nn.Module | None = None,
    optimizer: optax.GradientTransformation | None = None,
    objective: str | type[Objective] = "window",
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] = lambda metrics: None,
    **options: Any,
) -> Trained:
    """Trains a network to choose time steps.

    Args:
        bodies: a table `[N, 1 + 2 D]` (mass, position, velocity), a batch `[B, N, 1 + 2 D]`, or
            `Particles`; by default drawn as the options say.
        gravity: the force, with its softening and external field.
        network: a Flax module that maps inputs `[..., F]` to `[..., 1 or more]`, of which output 0
            becomes dt; by default a `StepNetwork` of `hidden_dims`.
        optimizer: an optax optimiser; by default as the options say.
        objective: "window", "gate" (two-phase training), "evolution" (for individual steps), or a
            class of objectives.
        progress: whether to show a bar, on a terminal or in a notebook.
        on_epoch: gets the metrics of every epoch.
        options: those of `jaxstepper train --help`, with `_` for `-`, such as
            `epochs=200, lr=1e-3, hidden_dims=(32, 32), feature_type="orbital", seed=1`.

    Returns:
        The trained network: its rule, its history, and how to save it. The precision is JAX's
        default: float64 if `jax_enable_x64` is on.

    Raises:
        UserError: an argument cannot be used.
    """
    own_objective = None if isinstance(objective, str) else objective
    tables = None if bodies is None else as_tables(bodies)
    request = _request(objective if isinstance(objective, str) else "", tables, gravity, options)
    request = with_G_of_units(request)
    if tables is not None:
        config = request.config
        validate_table(tables, "bodies", softening=config.softening)
        moving = attracting(tables, config.G)
        check_precision(moving, "bodies", config.dtype, config.softening)
    own = Overrides(network, optimizer, own_objective, gravity)
    start = start_run(request, share=False, bodies=tables, own=own, configure=False)
    epochs = start.config.epochs
    with NotebookBars() if progress and is_notebook() else open_bars(not progress) as bars:
        shown = TrainingBars(bars, start.objective, 0, epochs)

        def note(metrics: dict[str, Any]) -> None:
            shown.epoch(metrics)
            on_epoch(metrics)

        def watch(state: Any, metrics: dict[str, Any]) -> None:
            shown.call(state)

        result = run(start.objective, start.state, epochs, on_epoch=note, on_call=watch)
    about = {"given": what_was_set(request), "wandb_id": None} | own.described()
    return Trained(start, result, about)


def as_tables(bodies: ArrayLike | Sequence[Any] | Particles) -> np.ndarray:
    """Bodies as tables `[B, N, 1 + 2 D]` in float64; a UserError if they have another shape."""
    if isinstance(bodies, Particles):
        many = bodies.mass.ndim == 2
        bodies = (jax.vmap(to_table) if many else to_table)(bodies)
    tables = np.asarray(bodies, np.float64)
    tables = tables[None] if tables.ndim == 2 else tables
    require(
        tables.ndim == 3,
        f"bodies must be a table [N, 1 + 2 D] or a batch [B, N, 1 + 2 D], not {tables.shape}",
    )
    return tables


def _request(
    objective: str, tables: np.ndarray | None, gravity: Gravity | None, options: Mapping[str, Any]
) -> Request:
    """The options as a checked request, with defaults that suit a program."""
    for name in options:
        if name not in OPTIONS or name in OF_A_PART or OPTIONS[name].takes == "simulate":
            hint = nearest(name, OPTIONS, "jaxstepper train --help lists them")
            raise UserError(f"train({name}=...): there is no such option; {hint}")
    require(
        tables is None or not options.get("fresh_every"),
        "train(fresh_every=...): bodies that are given cannot be drawn anew",
    )
    asked: dict[str, Any] = {"epochs": EPOCHS, "seed": 0}
    if objective:
        asked["objective"] = objective
        require(objective in KINDS, f"train(objective={objective!r}): choose {' or '.join(KINDS)}")
    if objective == "window":
        asked |= WINDOWS
    asked |= {"dtype": jnp.zeros((), float).dtype.name, **options}
    if gravity is not None:
        asked["softening"] = float(gravity.softening)
        if gravity.G != 1:
            asked["G"] = float(gravity.G)
    if tables is None:
        asked.setdefault("multi_orbit", True)
        asked.setdefault("draw", "apocentre")
    else:
        asked |= {"multi_orbit": True, "num_orbits": len(tables)}
    checked = {}
    for name, value in asked.items():
        plain = value.item() if isinstance(value, np.generic) else value
        checked[name] = read_option(name, plain, f"train({name}=...)"), f"train({name}=...)"
    return combine("train", {}, checked)
