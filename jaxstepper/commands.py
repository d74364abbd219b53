"""What `train`, `simulate` and `both` do, once their arguments are known to be good."""

import json
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper import checkpoints, setup
from jaxstepper.calibrate import calibrate
from jaxstepper.config import Config, ineffective, to_dict
from jaxstepper.controllers import Controller, fixed, learned
from jaxstepper.dynamics import Gravity
from jaxstepper.errors import UserError
from jaxstepper.initial_conditions import orbital_period, validate_table
from jaxstepper.models import TrainedModel, load_model
from jaxstepper.networks import Variables, init_variables
from jaxstepper.particles import Particles, from_table
from jaxstepper.simulate import Limits, record, report, run_steps, run_until
from jaxstepper.tracking import Console, note, open_wandb
from jaxstepper.train_state import Plan, TrainState, init_train_state, restart
from jaxstepper.training import TrainingResult, run_two_phase_training

Given = Mapping[str, str]
DEFAULT_DT = 1e-2
DEFAULT_STEPS = 1000


def run_train(config: Config, given: Given, stream: TextIO | None = None) -> int:
    """`train`: sets up, trains, keeps checkpoints; returns the exit code.

    Args:
        config: of the run.
        given: what was given explicitly.
        stream: for the epoch lines and the summary; standard output otherwise.
    """
    began = time.perf_counter()
    _show_warnings_as_lines()
    model = load_model(config.model_path, config.checkpoint_dir) if config.model_path else None
    if model is not None:
        config = setup.adopt(config, given, model.config, model.name)
    config = setup.choose_seed(setup.configure_jax(config))
    tables = setup.initial_tables(config, given, config.multi_orbit)
    config = setup.with_scales(setup.with_shape_of(config, tables), tables)
    _warn_of_training(config, given)
    config = config if config.save_name else replace(config, save_name=_fresh_name())
    plan, state = prepare_training(config, tables, model)
    run = Path(config.checkpoint_dir) / str(config.save_name)
    console = Console(config, stream or sys.stdout)
    with open_wandb(config) as wandb_run:
        _make_room(run, config.overwrite)
        _announce(config, state, run, time.perf_counter() - began)

        def on_epoch(metrics: dict[str, Any]) -> None:
            console.epoch(metrics)
            wandb_run.epoch(metrics)

        with checkpoints.open_run(run) as writer, _stop_on_signal() as interrupted:
            renew = jax.jit(partial(restart, plan))
            save = partial(writer.save, config=to_dict(config), initial_conditions=tables)

            def on_pause(state: TrainState, metrics: dict[str, Any]) -> TrainState:
                done = metrics["epoch"] + 1
                if _is_fresh(config, done):
                    # A function of seed and epoch alone, so that a resumed run draws the same.
                    draw = np.random.default_rng([config.seed or 0, done])
                    fresh = setup.initial_tables(config, given, config.multi_orbit, draw)
                    state = renew(state, jnp.asarray(fresh), setup.end_times(config, fresh))
                if _is_saved(config, metrics["epoch"]):
                    save(metrics["epoch"], state, metrics=metrics)
                return state

            result = run_two_phase_training(
                plan,
                state,
                config.epochs,
                pause_after=lambda epoch: _is_saved(config, epoch) or _is_fresh(config, epoch + 1),
                on_epoch=on_epoch,
                on_pause=on_pause,
                interrupted=interrupted,
            )
            if result.stopped:
                save(int(result.state.epoch), result.state, metrics=result.metrics)
        console.summary(result)
        return _verdict(result, plan, run)


def _is_saved(config: Config, epoch: int) -> bool:
    return epoch % config.checkpoint_interval == 0 or epoch == config.epochs - 1


def _is_fresh(config: Config, done: int) -> bool:
    """Whether the systems start anew after so many epochs."""
    return config.fresh_every > 0 and done % config.fresh_every == 0


def prepare_training(
    config: Config, tables: np.ndarray, model: TrainedModel | None = None
) -> tuple[Plan, TrainState]:
    """The plan of a run and its state before the first epoch.

    Args:
        config: of the run; `setup.configure_jax` has been called.
        tables: initial conditions `[B, N, 1 + 2 D]`.
        model: a network to go on from.

    Raises:
        UserError: the model does not fit.
    """
    assert config.seed is not None
    plan = setup.make_plan(config)
    key = jax.random.PRNGKey(config.seed)
    variables = None if model is None else _variables_for(plan, model)
    # One compiled program: run one by one, the operations of a start take several seconds.
    start = jax.jit(_start, static_argnums=(0, 1))
    calibrated = variables is None and config.phase1 == "robust"
    state = start(
        plan,
        calibrated,
        jnp.asarray(tables, plan.network.dtype),
        key,
        variables,
        jnp.asarray(setup.end_times(config, tables)),
    )
    return plan, state


def _start(
    plan: Plan,
    calibrated: bool,
    tables: jax.Array,
    key: jax.Array,
    variables: Variables | None,
    end_time: jax.Array,
) -> TrainState:
    state = init_train_state(plan, tables, key, variables, end_time)
    if not calibrated:
        return state
    return state.replace(variables=calibrate(plan, state.variables, state.systems))


def _variables_for(plan: Plan, model: TrainedModel) -> Variables:
    """The model's variables in the dtype of the plan; its network must be the plan's."""
    init = partial(init_variables, plan.network, input_size=plan.features.size)
    like = jax.eval_shape(init, jax.random.PRNGKey(0))
    if jax.tree.map(jnp.shape, model.variables) != jax.tree.map(jnp.shape, like):
        raise UserError(
            f"{model.name}: its weights are not of a network with {plan.features.size} inputs and "
            f"hidden widths {' '.join(map(str, plan.network.hidden_dims))}"
        )
    return jax.tree.map(lambda x: jnp.asarray(x, plan.network.dtype), model.variables)


def _warn_of_training(config: Config, given: Given) -> None:
    if config.num_orbits > 1 and not config.multi_orbit:
        warnings.warn(
            f"Multi-orbit training (num_orbits={config.num_orbits}) is off. Using single orbit; "
            "--multi-orbit trains on all of them at once.",
            stacklevel=2,
        )
    if config.duration is not None:
        warnings.warn(
            f"Duration-based training (duration={config.duration:g}) is not supported. "
            f"Using the epoch count (epochs={config.epochs}).",
            stacklevel=2,
        )
    _warn_of_ineffective(config, given)


def _warn_of_ineffective(config: Config, given: Given) -> None:
    for name in ineffective(given):
        warnings.warn(f"{given[name]} is accepted and changes nothing", stacklevel=3)
    if config.movie:
        warnings.warn("--movie is not available yet; no movie is made", stacklevel=3)


def _announce(config: Config, state: TrainState, run: Path, seconds: float) -> None:
    parameters = sum(x.size for x in jax.tree.leaves(state.variables["params"]))
    device = jax.tree.leaves(state.variables)[0].devices().pop()
    say = partial(note, quiet=config.quiet)
    say(f"device {device.device_kind} ({device.platform}), {config.dtype}, seed {config.seed}")
    say(f"network of {parameters:,} parameters, {config.num_particles} particles in {config.dim}D")
    say(f"checkpoints in {run}; set up in {seconds:.1f}s")


def _make_room(run: Path, overwrite: bool) -> None:
    """Clears the folder of a run of the same name: its checkpoints go, or are moved aside."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not checkpoints.epochs_of(run):
            return
        if overwrite:
            checkpoints.remove_run(run)
            return
        number = 1
        while (aside := run.with_name(f"{run.name}.{number}")).exists():
            number += 1
        run.rename(aside)
        note(f"{run} held a run already; it is kept as {aside}")
    except OSError as error:
        raise UserError(f"{run}: cannot hold a run ({error.strerror})") from error


def _fresh_name() -> str:
    return time.strftime("run-%Y%m%d-%H%M%S")


def _verdict(result: TrainingResult, plan: Plan, run: Path) -> int:
    """Says how a run that left early ended; returns the exit code."""
    state, saved = result.state, f"saved in {run}"
    if result.stopped == "stuck":
        worst = int(jnp.argmax(state.progress.failures))
        note(
            f"stuck at epoch {int(state.epoch)}, step {int(state.progress.step)}, system {worst}, "
            f"time {float(state.systems.particles.time[worst]):g}: after "
            f"{plan.max_retrain_steps} retrain iterations the relative energy error is still "
            f"{float(state.progress.last_error[worst]):.2e}, not below {plan.gate.threshold:g}; "
            f"{saved}. Try a larger --lr or --max-retrain-steps, or --dropout 0."
        )
        return 1
    if result.stopped == "not finite":
        note(
            f"epoch {int(state.epoch)}: the network's dt is not finite; {saved}. Try a lower --lr."
        )
        return 1
    if result.stopped == "interrupted":
        note(f"interrupted in epoch {int(state.epoch)}; {saved}")
    if result.stopped == "retired":
        note("every orbit has completed its period")
    return 0


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; the device call under way ends first. A second one leaves now."""
    pressed: list[int] = []

    def on_signal(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _show_warnings_as_lines() -> None:
    """Warnings for users are one line, without the place in the code."""

    def line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
        return f"{category.__name__}: {message}\n"

    warnings.formatwarning = line


def run_both(train: tuple[Config, Given], simulate: tuple[Config, Given]) -> int:
    """`both`: trains, then simulates with the result; returns the exit code.

    Standard output holds the JSON of the simulation alone.
    """
    train_config, train_given = train
    if train_config.save_name is None:
        train_config = replace(train_config, save_name=_fresh_name())
    code = run_train(train_config, train_given, stream=sys.stderr)
    if code:
        return code
    config, given = simulate
    run = str(Path(train_config.checkpoint_dir) / str(train_config.save_name))
    mode = config.integrator_mode
    if "integrator_mode" not in given:
        mode = "history" if train_config.history_len else "ml"
    config = replace(config, model_path=run, integrator_mode=mode)
    return run_simulate(config, given)


def run_simulate(config: Config, given: Given) -> int:
    """`simulate`: rolls out and prints JSON; returns the exit code."""
    _show_warnings_as_lines()
    needs_model = config.integrator_mode != "analytic" or config.use_train_ic
    if needs_model and config.model_path is None:
        mode = f"--integrator-mode {config.integrator_mode}"
        flag = "--use-train-ic" if config.use_train_ic else mode
        raise UserError(f"{flag} needs --model-path: a run, RUN/EPOCH, or a .pt file")
    model = load_model(config.model_path, config.checkpoint_dir) if config.model_path else None
    if model is not None:
        config = setup.adopt(config, given, model.config, model.name)
    _check_mode(config, given, model)
    config = setup.choose_seed(setup.configure_jax(config))
    _warn_of_ineffective(config, given)
    if model is not None and not needs_model:
        note(f"dt is constant, {model.name} is not used; --integrator-mode ml follows it")
    tables = _simulated_tables(config, given, model)
    config = setup.with_shape_of(config, tables)
    gravity = setup.make_gravity(config)
    controller = _make_controller(config, gravity, model)
    dtype = jnp.dtype(config.dtype)
    starts = [from_table(table, gravity.acceleration, dtype) for table in tables]
    limits = [_limits(config, given, table) for table in tables]
    code = 0
    with open_wandb(config, "runner_simulate") as wandb_run:
        if config.output is not None:
            ends = _record_to(Path(config.output), controller, gravity, starts, limits)
        else:
            ends = _roll_out(controller, gravity, starts, limits)
        for first, (last, steps) in zip(starts, ends, strict=True):
            result = report(gravity, first, last, steps)
            print(json.dumps(result, allow_nan=False))
            wandb_run.log(result)
            if result["energy_final"] is None:
                note(f"the rollout blew up: its energy is not finite after {steps} steps")
                code = 1
    return code


def _check_mode(config: Config, given: Given, model: TrainedModel | None) -> None:
    if config.integrator_mode == "ml" and config.history_len > 0 and model is not None:
        raise UserError(
            f"--integrator-mode ml: {model.name} was trained with a history of "
            f"{config.history_len} states; use --integrator-mode history"
        )
    if config.integrator_mode == "history" and config.history_len == 0 and model is not None:
        raise UserError(
            f"--integrator-mode history: {model.name} was trained without a history; use "
            "--integrator-mode ml"
        )


def _simulated_tables(config: Config, given: Given, model: TrainedModel | None) -> np.ndarray:
    if not config.use_train_ic:
        return setup.initial_tables(config, given, config.multi_orbit_sim)
    assert model is not None
    tables = model.initial_conditions
    if tables is None:
        raise UserError(f"--use-train-ic: {model.name} does not keep its initial conditions")
    validate_table(
        tables,
        f"{model.name} (--use-train-ic)",
        softening=config.softening,
        dim=config.dim if "dim" in given else None,
        num_particles=config.num_particles if "num_particles" in given else None,
    )
    return tables if config.multi_orbit_sim else tables[:1]


def _make_controller(config: Config, gravity: Gravity, model: TrainedModel | None) -> Controller:
    if config.integrator_mode == "analytic":
        return fixed(config.dt if config.dt > 0 else DEFAULT_DT)
    assert model is not None
    plan = setup.make_plan(config)
    return learned(plan.network, _variables_for(plan, model), plan.features, gravity)


def _limits(config: Config, given: Given, table: np.ndarray) -> Limits:
    """--duration, else periods of a bound pair, else steps."""
    if config.duration is not None:
        if "steps" in given:
            note("--duration decides; --steps is not used")
        return Limits(time=config.duration)
    period = orbital_period(table) if config.softening == 0 else None
    if period is not None and config.stop_at_period:
        return Limits(time=period)
    if period is not None and config.Nperiod > 0:
        if "steps" in given:
            note(
                f"a bound pair runs {config.Nperiod} periods (--Nperiod); "
                "--steps counts with --Nperiod 0"
            )
        return Limits(time=config.Nperiod * period)
    return Limits(steps=config.steps if config.steps > 0 else DEFAULT_STEPS)


def _roll_out(
    controller: Controller, gravity: Gravity, starts: list[Particles], limits: list[Limits]
) -> list[tuple[Particles, int]]:
    """The last state of each rollout and its number of steps; several run as one batch."""
    if len(starts) == 1 and np.isinf(limits[0].time):
        rollout = run_steps(controller, gravity, starts[0], int(limits[0].steps))
        return [(rollout.particles, int(rollout.steps))]

    def stack(*leaves: Any) -> jax.Array:
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves])

    particles = jax.tree.map(stack, *starts)
    dtype = particles.time.dtype
    bounds = Limits(
        jnp.asarray([limit.time for limit in limits], dtype),
        jnp.asarray([limit.steps for limit in limits], jnp.int32),
    )
    rollouts = jax.jit(jax.vmap(lambda start, ends: run_until(controller, gravity, start, ends)))(
        particles, bounds
    )
    return [
        (jax.tree.map(lambda x, i=i: x[i], rollouts.particles), int(rollouts.steps[i]))
        for i in range(len(starts))
    ]


def _record_to(
    path: Path,
    controller: Controller,
    gravity: Gravity,
    starts: list[Particles],
    limits: list[Limits],
) -> list[tuple[Particles, int]]:
    """As `_roll_out`, and writes every state to `path`.

    Several rollouts have a leading axis; the shorter ones are padded with NaN.
    """
    recorded = [
        record(controller, gravity, start, limit)
        for start, limit in zip(starts, limits, strict=True)
    ]
    trajectories = [trajectory for _, trajectory in recorded]
    arrays = {
        name: _stack_padded([getattr(trajectory, name) for trajectory in trajectories])
        for name in trajectories[0]._fields
    }
    if len(starts) == 1:
        arrays = {name: array[0] for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error.strerror})") from error
    return [(rollout.particles, int(rollout.steps)) for rollout, _ in recorded]


def _stack_padded(arrays: list[np.ndarray]) -> np.ndarray:
    length = max(map(len, arrays))
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), math.nan, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
