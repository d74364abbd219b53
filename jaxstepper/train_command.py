"""What `train` does, once its arguments are known to be good."""

import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper import checkpoints, setup
from jaxstepper.checkpoints import Checkpoint
from jaxstepper.config import Config, to_dict
from jaxstepper.devices import describe
from jaxstepper.errors import UserError
from jaxstepper.places import check_run_place
from jaxstepper.prepare import fresh_tables, is_fresh, resume_training, start_run
from jaxstepper.processes import from_main, meet, on_main
from jaxstepper.resume import resumed_config, what_was_given
from jaxstepper.run_writer import RunWriter
from jaxstepper.setup import Given
from jaxstepper.signals import stop_on_signal
from jaxstepper.tracking import Console, MetricsFile, note, open_wandb
from jaxstepper.train_state import Plan, TrainState, restart
from jaxstepper.training import TrainingResult, run_two_phase_training
from jaxstepper.training_movie import TrainingMovie
from jaxstepper.window_training import (
    WindowPlan,
    WindowResult,
    WindowState,
    run_window_training,
)

# Of how this part of a run was started, which is nothing to the next.
NOT_KEPT: dict[str, Any] = {
    "resume": False,
    "overwrite": False,
    "distributed": False,
    "coordinator": None,
    "num_processes": None,
    "process_id": None,
}


@dataclass(frozen=True)
class Job:
    """A run that is ready to train.

    Attributes:
        config: of the run.
        given: what was given explicitly when the run began, as plain values.
        tables: initial conditions `[B, N, 1 + 2 D]` it began with.
        plan: what is trained.
        state: where it stands.
        checkpoint: that it goes on from, or None.
    """

    config: Config
    given: Mapping[str, Any]
    tables: np.ndarray
    plan: Plan | WindowPlan
    state: TrainState | WindowState
    checkpoint: Checkpoint | None = None

    @property
    def folder(self) -> Path:
        """Of the run."""
        return _folder(self.config)

    @property
    def about(self) -> Mapping[str, Any]:
        """What the run wrote down for itself."""
        return self.checkpoint.about if self.checkpoint else {}


def run_train(config: Config, given: Given, stream: TextIO | None = None) -> int:
    """`train`: sets up, trains, keeps checkpoints; returns the exit code.

    Args:
        config: of the run.
        given: what was given explicitly.
        stream: for the epoch lines and the summary; standard output otherwise.
    """
    began = time.perf_counter()
    with stop_on_signal() as interrupted:
        job = _set_up(config, given)
        config = job.config
        movie = TrainingMovie(config, job.folder, job.state, is_resumed=job.checkpoint is not None)
        console = Console(config, stream or sys.stdout)
        with open_wandb(config, run_id=job.about.get("wandb_id")) as wandb_run:
            metrics_file = on_main(partial(_open_folder, job))
            _announce(job, time.perf_counter() - began)
            writer = RunWriter(
                job.folder,
                job.tables,
                to_dict(replace(config, **NOT_KEPT)),
                about={"given": job.given, "wandb_id": wandb_run.id},
                keep=config.keep,
                minutes=config.checkpoint_minutes,
                newest=job.checkpoint.path if job.checkpoint else None,
            )
            renew: Callable = jax.jit(partial(restart, job.plan))  # type: ignore[arg-type]

            def on_epoch(metrics: dict[str, Any]) -> None:
                console.epoch(metrics)
                wandb_run.epoch(metrics)
                if metrics_file is not None:
                    metrics_file.epoch(metrics)

            def on_pause(state: Any, metrics: dict[str, Any]) -> Any:
                done = metrics["epoch"] + 1
                movie.add(state)
                if is_fresh(config, done):
                    fresh = fresh_tables(config, job.given, job.tables, done)
                    state = renew(state, fresh, setup.end_times(config, fresh))
                    movie.add(state)
                if _is_saved(config, metrics["epoch"]):
                    writer.save_epoch(metrics["epoch"], state, metrics)
                return state

            def on_call(state: Any, metrics: dict[str, Any]) -> None:
                if writer.is_due() and not writer.holds(state):
                    writer.save_partial(int(state.epoch), state, metrics)

            is_window = config.objective == "window"
            train: Callable = run_window_training if is_window else run_two_phase_training
            result = train(
                job.plan,
                job.state,
                config.epochs,
                metrics=job.checkpoint.metrics if job.checkpoint else {},
                pause_after=lambda epoch: (
                    movie.is_on or _is_saved(config, epoch) or is_fresh(config, epoch + 1)
                ),
                on_epoch=on_epoch,
                on_pause=on_pause,
                on_call=on_call,
                interrupted=interrupted,
            )
            if result.stopped not in ("", "not finite") and not writer.holds(result.state):
                writer.save_partial(int(result.state.epoch), result.state, result.metrics)
            writer.finish()
            meet()
            console.summary(result)
            code = _verdict(result, job.plan, writer)
            movie.make()
            return code


def _folder(config: Config) -> Path:
    return Path(config.checkpoint_dir) / str(config.save_name)


def _set_up(config: Config, given: Given) -> Job:
    """A new run, or one that is resumed.

    Raises:
        UserError: something given cannot be used, or the run is there already.
    """
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if config.resume and config.save_name is None:
        raise UserError("--resume needs --save-name, the name of the run to go on with")
    if config.save_name is None:
        config = replace(config, save_name=fresh_name())
    run = _folder(config)
    check_run_place(run)
    if checkpoints.paths_of(run):
        if config.resume:
            return _resumed_job(config, given, checkpoints.load(run))
        if not config.overwrite:
            raise UserError(
                f"{run}: there is a run of this name; --resume goes on with it, --overwrite "
                "deletes it, --save-name names another"
            )
    job = _new_job(config, given)
    if config.resume:
        note(f"{run}: no checkpoint to resume from; the run starts at epoch 0")
    return job


def _new_job(asked_for: Config, given: Given) -> Job:
    start = start_run(asked_for, given)
    asked = what_was_given(asked_for, given)
    _warn_of_training(start.config, given)
    return Job(start.config, asked, start.tables, start.plan, start.state)


def _resumed_job(config: Config, given: Given, checkpoint: Checkpoint) -> Job:
    config = resumed_config(config, given, checkpoint)
    config = setup.configure_jax(config)
    given = checkpoint.about.get("given", {})
    tables = checkpoint.initial_conditions
    return Job(config, given, tables, *resume_training(config, checkpoint), checkpoint)


def _open_folder(job: Job) -> MetricsFile:
    """Makes the folder of a run ready to be written to; a run to overwrite goes."""
    run = job.folder
    try:
        run.mkdir(parents=True, exist_ok=True)
        if job.config.overwrite:
            checkpoints.remove_run(run)
        checkpoints.remove_unfinished(run)
        return MetricsFile(run / checkpoints.METRICS_FILE, int(job.state.epoch))
    except OSError as error:
        raise UserError(f"{run}: cannot hold a run ({error.strerror})") from error


def _is_saved(config: Config, epoch: int) -> bool:
    return epoch % config.checkpoint_interval == 0 or epoch == config.epochs - 1


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
    if config.movie and config.objective == "window":
        warnings.warn("--movie: window training follows no path, so no movie is made", stacklevel=2)
    setup.warn_of_ineffective(config, given)
    setup.warn_of_unused_orbit(config, given, config.multi_orbit)


def _announce(job: Job, seconds: float) -> None:
    config = job.config
    size = f"{sum(x.size for x in jax.tree.leaves(job.state.variables['params'])):,}"
    say = partial(note, quiet=config.quiet)
    mesh = job.plan.mesh if isinstance(job.plan, Plan) else None
    say(f"device {describe(mesh)}, {config.dtype}, seed {config.seed}")
    say(f"network of {size} parameters, {config.num_particles} particles in {config.dim}D")
    say(f"checkpoints in {job.folder}; set up in {seconds:.1f}s")
    if job.checkpoint is not None:
        say(f"goes on from {job.checkpoint.path}, in epoch {int(job.state.epoch)}")


def _verdict(
    result: TrainingResult | WindowResult, plan: Plan | WindowPlan, writer: RunWriter
) -> int:
    """Says how a run that left early ended; returns the exit code."""
    state, saved = result.state, f"saved in {writer.newest}"
    where = f"epoch {int(state.epoch)}"
    if isinstance(state, TrainState):
        where += f", step {int(state.progress.step)}"
    if result.stopped == "not finite":
        last = f"the last good checkpoint is {writer.newest}" if writer.newest else "nothing saved"
        note(f"{where}: the network or its dt is no longer finite; {last}. Try a lower --lr.")
        return 1
    if writer.problem:
        kept = f"{writer.newest} is the newest checkpoint" if writer.newest else "nothing is saved"
        note(f"{where}: the run ends, and its end could not be saved ({writer.problem}); {kept}")
        return 1
    if result.stopped == "stuck":
        assert isinstance(plan, Plan) and isinstance(state, TrainState)
        worst = int(jnp.argmax(state.progress.failures))
        note(
            f"stuck at {where}, system {worst}, "
            f"time {float(state.systems.particles.time[worst]):g}: after "
            f"{plan.max_retrain_steps} retrain iterations the relative energy error is still "
            f"{float(state.progress.last_error[worst]):.2e}, not below {plan.gate.threshold:g}; "
            f"{saved}. Try a larger --lr or --max-retrain-steps, or --dropout 0."
        )
        return 1
    if result.stopped == "interrupted":
        note(f"interrupted in {where}; {saved}; --resume goes on")
    if result.stopped == "retired":
        note("every orbit has completed its period")
    return 0


def fresh_name() -> str:
    """A name for a run that was given none."""
    return time.strftime("run-%Y%m%d-%H%M%S", time.localtime(from_main(int(time.time()))))
