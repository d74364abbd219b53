"""Starts a run: a new one, or one that was saved."""

import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.machine.devices import choose_mesh
from jaxstepper.machine.processes import are_several
from jaxstepper.network.step_network import init_variables
from jaxstepper.runs import checkpoints
from jaxstepper.runs.bodies import initial_tables, with_shape_of
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.runs.jax_setup import choose_seed, configure_jax
from jaxstepper.runs.models import TrainedModel, load_model, variables_for
from jaxstepper.runs.objectives import NO_OVERRIDES, Overrides, make_objective
from jaxstepper.runs.plans import adopt, with_scales
from jaxstepper.runs.units import attracting, with_G_of_units
from jaxstepper.settings.checks import suited_features
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import CHECKPOINT
from jaxstepper.training.objective import Objective
from jaxstepper.training.status import RUNNING

# Roughly, the pairs of bodies and the multiplications in a network that a CPU does in a second.
PAIRS_PER_SECOND, PRODUCTS_PER_SECOND = 2e8, 1e10
# Users are warned of device calls that last longer, in seconds.
LONG_CALL = 60.0


@dataclass(frozen=True)
class Start:
    """A run before its first epoch.

    Attributes:
        config: the run's, with seed, shape and scales filled in.
        tables: initial conditions `[B, N, 1 + 2 D]`.
        objective: what is trained.
        state: the first state.
    """

    config: Config
    tables: np.ndarray
    objective: Objective
    state: Any


def start_run(
    request: Request,
    *,
    share: bool = True,
    bodies: np.ndarray | None = None,
    own: Overrides = NO_OVERRIDES,
    configure: bool = True,
) -> Start:
    """A new run.

    Args:
        request: the options of the run.
        share: whether all devices may share its systems; otherwise it trains on one.
        bodies: initial conditions `[B, N, 1 + 2 D]`; by default those that the config names.
        own: what a program provides itself.
        configure: whether to set device, precision and caches of JAX as the config says.

    Raises:
        UserError: an option or a body cannot be used.
    """
    config, tables, model = complete(request, bodies, configure)
    return Start(config, tables, *prepare(config, tables, model, share=share, own=own))


def complete(
    request: Request, bodies: np.ndarray | None = None, configure: bool = True
) -> tuple[Config, np.ndarray, TrainedModel | None]:
    """The completed config of a new run, its tables, and the model to go on from, if any.

    Training takes place where G = 1: the masses of the tables are G m.

    Raises:
        UserError: an option or a body cannot be used.
    """
    path, folder = request.config.model_path, request.config.checkpoint_dir
    model = load_model(path, folder) if path else None
    if model is not None:
        request = adopt(request, model.config, model.name)
    request = with_G_of_units(request)
    config = configure_jax(request.config) if configure else request.config
    config = choose_seed(config)
    tables = bodies
    if tables is None:
        tables = initial_tables(Request(config, request.sources), config.multi_orbit)
    tables = attracting(tables, config.G)
    config = with_shape_of(config, tables)
    if model is None and not request.sets("feature_type"):
        config = replace(config, feature_type=suited_features(config))
    return with_scales(config, tables), tables, model


def prepare(
    config: Config,
    tables: np.ndarray,
    model: TrainedModel | None = None,
    *,
    share: bool = True,
    own: Overrides = NO_OVERRIDES,
) -> tuple[Any, Any]:
    """The objective of a run, and its state before the first epoch or with a model's weights.

    `configure_jax` must have been called; `share` and `own` are those of `start_run`.

    Raises:
        UserError: the model does not fit.
    """
    assert config.seed is not None
    objective: Any = make_objective(config, tables, own)
    if share and objective.shares_devices:
        objective = replace(objective, mesh=choose_mesh(len(tables)))
    elif share and are_several():
        raise UserError(
            f"--objective {config.objective} trains in one process; leave out --distributed"
        )
    variables = None
    if model is not None:
        variables = variables_for(objective.network, objective.features, model)
    warn_of_long_calls(objective, tables)
    key = jax.random.PRNGKey(config.seed)
    return objective, objective.init(tables, key, variables)


def warn_of_long_calls(objective: Objective, tables: np.ndarray) -> None:
    """Warns if a device call, which nothing can interrupt, would take minutes on a CPU."""
    systems, bodies, _ = tables.shape
    pairs, passes = objective.longest_call(bodies, systems)
    init = partial(init_variables, objective.network, input_size=objective.features.size)
    params = jax.eval_shape(init, jax.random.PRNGKey(0))["params"]
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    seconds = pairs / PAIRS_PER_SECOND + passes * weights / PRODUCTS_PER_SECOND
    if seconds > LONG_CALL:
        warnings.warn(
            f"one device call will take about {seconds / 60:.0f} minutes on a CPU, with {systems} "
            f"x {bodies} bodies and a network of {weights:,} parameters; until it ends, a first "
            "signal waits and nothing is saved. A second signal leaves at once.",
            stacklevel=2,
        )


def is_fresh(config: Config, objective: Objective, done: int) -> bool:
    """Whether the systems start anew after so many epochs."""
    every = config.fresh_every
    return objective.follows_paths and every > 0 and done % every == 0


def fresh_tables(
    config: Config, given: Collection[str], tables: np.ndarray, done: int
) -> np.ndarray:
    """Initial conditions after `done` epochs, which depend only on seed and epoch.

    So a resumed run draws the same. The `tables` of a file stay as the run found them.
    """
    if config.ic_path is not None:
        return tables
    draw = np.random.default_rng([config.seed or 0, done])
    request = Request(config, dict.fromkeys(given, CHECKPOINT))
    return attracting(initial_tables(request, config.multi_orbit, draw), config.G)


def resume_training(
    config: Config, checkpoint: Checkpoint, own: Overrides = NO_OVERRIDES
) -> tuple[Any, Any]:
    """The objective of a run, and its state in a checkpoint; raises as `prepare` and `restore`."""
    model = TrainedModel(str(checkpoint.path), 0, checkpoint.variables, {}, None)
    objective, template = prepare(config, checkpoint.initial_conditions, model, own=own)
    state = checkpoints.restore(checkpoint, template)
    return objective, state.replace(status=jnp.full_like(state.status, RUNNING))
