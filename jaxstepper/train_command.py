"""What `train` does, once its arguments are known to be good."""

import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper import checkpoints, setup
from jaxstepper.config import Config, to_dict
from jaxstepper.errors import UserError
from jaxstepper.models import load_model
from jaxstepper.prepare import prepare_training
from jaxstepper.setup import Given
from jaxstepper.tracking import Console, note, open_wandb
from jaxstepper.train_state import Plan, TrainState, restart
from jaxstepper.training import TrainingResult, run_two_phase_training


def run_train(config: Config, given: Given, stream: TextIO | None = None) -> int:
    """`train`: sets up, trains, keeps checkpoints; returns the exit code.

    Args:
        config: of the run.
        given: what was given explicitly.
        stream: for the epoch lines and the summary; standard output otherwise.
    """
    began = time.perf_counter()
    model = load_model(config.model_path, config.checkpoint_dir) if config.model_path else None
    if model is not None:
        config = setup.adopt(config, given, model.config, model.name)
    config = setup.choose_seed(setup.configure_jax(config))
    tables = setup.initial_tables(config, given, config.multi_orbit)
    config = setup.with_scales(setup.with_shape_of(config, tables), tables)
    _warn_of_training(config, given)
    config = config if config.save_name else replace(config, save_name=fresh_name())
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
    setup.warn_of_ineffective(config, given)


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


def fresh_name() -> str:
    """A name for a run that was given none."""
    return time.strftime("run-%Y%m%d-%H%M%S")
