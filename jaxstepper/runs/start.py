"""The plan of a run, and its state before the first epoch or where it was saved."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.machine.devices import choose_mesh
from jaxstepper.machine.processes import are_several
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.runs import checkpoints
from jaxstepper.runs.bodies import end_times, initial_tables, with_shape_of
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.runs.jax_setup import choose_seed, configure_jax
from jaxstepper.runs.models import TrainedModel, load_model, variables_for
from jaxstepper.runs.plans import adopt, make_plan, make_window_plan, with_scales
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import CHECKPOINT
from jaxstepper.training.two_phase.calibrate import calibrate
from jaxstepper.training.two_phase.state import RUNNING, Plan, TrainState, init_train_state, place
from jaxstepper.training.windows.run import WindowPlan, WindowState, init_window_state


@dataclass(frozen=True)
class Start:
    """A run before its first epoch.

    Attributes:
        config: of the run, with seed, shape and scales filled in.
        tables: initial conditions `[B, N, 1 + 2 D]`.
        plan: what is trained.
        state: where it stands.
    """

    config: Config
    tables: np.ndarray
    plan: Plan | WindowPlan
    state: TrainState | WindowState


def start_run(config: Config, given: Mapping[str, str], share: bool = True) -> Start:
    """A new run, from its config and from what of it was given explicitly.

    Args:
        config: of the run.
        given: what was given explicitly.
        share: whether all devices may share its systems; else it trains on one.

    Raises:
        UserError: something given cannot be used.
    """
    config, tables, model = settle(config, given)
    return Start(config, tables, *prepare(config, tables, model, share))


def settle(
    config: Config, given: Mapping[str, str]
) -> tuple[Config, np.ndarray, TrainedModel | None]:
    """The config of a new run with all that follows from it, its tables, and a model to go on from.

    Raises:
        UserError: something given cannot be used.
    """
    model = load_model(config.model_path, config.checkpoint_dir) if config.model_path else None
    if model is not None:
        config = adopt(Request(config, given), model.config, model.name).config
    config = choose_seed(configure_jax(config))
    tables = initial_tables(Request(config, given), config.multi_orbit)
    return with_scales(with_shape_of(config, tables), tables), tables, model


def is_fresh(config: Config, done: int) -> bool:
    """Whether the systems start anew after so many epochs."""
    return config.objective == "gate" and config.fresh_every > 0 and done % config.fresh_every == 0


def fresh_tables(
    config: Config, given: Collection[str], tables: np.ndarray, done: int
) -> np.ndarray:
    """Initial conditions after `done` epochs: a function of seed and epoch alone.

    So a resumed run draws the same. Those of a file are the file's, as the run found it: `tables`.
    """
    if config.ic_path is not None:
        return tables
    draw = np.random.default_rng([config.seed or 0, done])
    request = Request(config, dict.fromkeys(given, CHECKPOINT))
    return initial_tables(request, config.multi_orbit, draw)


def prepare(
    config: Config, tables: np.ndarray, model: TrainedModel | None = None, share: bool = True
) -> tuple[Plan | WindowPlan, TrainState | WindowState]:
    """`prepare_training` or `prepare_window_training`, as the objective has it."""
    if config.objective == "window":
        if are_several():
            raise UserError("--objective window trains in one process; leave out --distributed")
        return prepare_window_training(config, tables, model)
    return prepare_training(config, tables, model, share)


def prepare_training(
    config: Config, tables: np.ndarray, model: TrainedModel | None = None, share: bool = True
) -> tuple[Plan, TrainState]:
    """The plan of a run and its state before the first epoch.

    Args:
        config: of the run; `configure_jax` has been called.
        tables: initial conditions `[B, N, 1 + 2 D]`.
        model: a network to go on from.
        share: whether all devices may share the systems; else the plan is for one.

    Raises:
        UserError: the model does not fit.
    """
    assert config.seed is not None
    mesh = choose_mesh(len(tables)) if share else None
    plan = replace(make_plan(config), mesh=mesh)
    # Plain arrays: each process has the same, and the program puts them where they belong.
    key = np.asarray(jax.random.PRNGKey(config.seed))
    variables = None if model is None else variables_for(plan, model)
    # One compiled program: run one by one, the operations of a start take several seconds.
    start = jax.jit(_start, static_argnums=(0, 1))
    calibrated = variables is None and config.phase1 == "robust"
    state = start(
        plan,
        calibrated,
        np.asarray(tables, plan.network.dtype),
        key,
        jax.tree.map(np.asarray, variables),
        end_times(config, tables),
    )
    return plan, state


def resume_training(
    config: Config, checkpoint: Checkpoint
) -> tuple[Plan | WindowPlan, TrainState | WindowState]:
    """The plan of a run and its state in a checkpoint.

    Args:
        config: of the run; `configure_jax` has been called.
        checkpoint: of that run.

    Raises:
        UserError: the checkpoint is of another kind of run.
    """
    model = TrainedModel(str(checkpoint.path), 0, checkpoint.variables, {}, None)
    plan, template = prepare(config, checkpoint.initial_conditions, model)
    state = checkpoints.restore(checkpoint, template)
    return plan, state.replace(status=jnp.full_like(state.status, RUNNING))


def prepare_window_training(
    config: Config, tables: np.ndarray, model: TrainedModel | None = None
) -> tuple[WindowPlan, WindowState]:
    """As `prepare_training`, for objective window.

    Raises:
        UserError: the model does not fit.
    """
    assert config.seed is not None
    plan = make_window_plan(config)
    variables = None if model is None else variables_for(plan, model)
    periods = [orbital_period(table) for table in tables]
    if None in periods:  # windows are in units of time then, and all of one length
        plan, periods = replace(plan, spans=1.0), [config.window_length] * len(tables)
    span = np.array(periods)
    start = jax.jit(init_window_state, static_argnums=0)
    return plan, start(plan, tables, span, jax.random.PRNGKey(config.seed), variables)


def _start(
    plan: Plan,
    calibrated: bool,
    tables: jax.Array,
    key: jax.Array,
    variables: Variables | None,
    end_time: jax.Array,
) -> TrainState:
    state = init_train_state(plan, tables, key, variables, end_time)
    if calibrated:
        state = state.replace(variables=calibrate(plan, state.variables, state.systems))
    return place(plan, state)
