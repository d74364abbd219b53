"""`train`, once its arguments are known to be good."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxstepper.commands.movies import open_training_movie
from jaxstepper.commands.run_artifacts import keep_model, log_figures, open_wandb
from jaxstepper.commands.signals import stop_on_signal
from jaxstepper.commands.train_job import Job, open_job
from jaxstepper.commands.train_report import announce, verdict
from jaxstepper.errors import UserError
from jaxstepper.machine.processes import meet, on_main, tell_on_loss
from jaxstepper.pictures.training_movie import TrainingMovie
from jaxstepper.reporting.bars import Bars, open_bars
from jaxstepper.reporting.console import Console
from jaxstepper.reporting.note import note
from jaxstepper.reporting.training_bars import TrainingBars
from jaxstepper.reporting.wandb_run import summary_values
from jaxstepper.runs import folders
from jaxstepper.runs.metrics_file import MetricsFile
from jaxstepper.runs.resume import OF_A_PART
from jaxstepper.runs.start import fresh_tables, is_fresh
from jaxstepper.runs.writer import RunWriter
from jaxstepper.settings.config import DEFAULTS, Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import to_dict
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result, run


def run_train(request: Request, lines_on_stderr: bool = False) -> int:
    """`train`: sets up, trains, keeps checkpoints; returns the exit code.

    The lines of epochs and the summary go to standard output, or standard error if asked.
    """
    began = time.perf_counter()
    with (
        open_bars(request.config.quiet) as bars,
        stop_on_signal(bars.close) as stopped,
        open_job(request) as job,
    ):
        config = job.config
        tell_on_loss(partial(_words_of_loss, job.folder, bars))
        is_resumed = job.checkpoint is not None
        movie = open_training_movie(config, job.folder, job.objective, job.state, is_resumed)
        stream = sys.stderr if lines_on_stderr else sys.stdout
        console = Console(job.objective, config.epochs, stream, config.quiet)
        wandb_id = job.about.get("wandb_id")
        with open_wandb(config, run_id=wandb_id, step="epoch") as wandb_run:
            metrics_file = on_main(partial(_open_folder, job))
            announce(job, time.perf_counter() - began, wandb_run.place)
            writer = RunWriter(
                job.folder,
                job.tables,
                to_dict(config) | {name: DEFAULTS[name] for name in OF_A_PART},
                about={"given": job.given, "wandb_id": wandb_run.id},
                keep=config.keep,
                minutes=config.checkpoint_minutes,
                newest=job.checkpoint.path if job.checkpoint else None,
            )
            training_bars = TrainingBars(bars, job.objective, int(job.state.epoch), config.epochs)
            objective = job.objective
            told: list[Callable[[Mapping[str, Any]], None]] = [
                console.epoch,
                lambda metrics: wandb_run.log(objective.wandb_keys(metrics)),
                training_bars.epoch,
            ]
            told += [metrics_file.epoch] if metrics_file is not None else []
            told += [partial(_debug_epoch, objective)] if config.debug else []
            result = _train(job, told, training_bars, writer, movie, lambda: stopped() > 0)
            if result.stopped not in ("", "not finite") and not writer.holds(result.state):
                writer.save_partial(int(result.state.epoch), result.state, result.metrics)
            writer.finish()
            meet()
            bars.close()
            console.summary(result)
            wandb_run.summary(summary_values(job.objective, result))
            log_figures(wandb_run, job.folder)
            if config.wandb_artifacts:
                keep_model(wandb_run, writer.newest)
            code = verdict(result, job.objective, writer)
            movie.make()
            return code


def _train(
    job: Job,
    told: Sequence[Callable[[Mapping[str, Any]], None]],
    bars: TrainingBars,
    writer: RunWriter,
    movie: TrainingMovie,
    interrupted: Callable[[], bool],
) -> Result:
    """Trains, reports every epoch, and saves checkpoints."""
    config = job.config

    def on_epoch(metrics: dict[str, Any]) -> None:
        for tell in told:
            tell(metrics)

    def on_pause(state: Any, metrics: dict[str, Any]) -> Any:
        done = metrics["epoch"] + 1
        movie.add(state)
        if is_fresh(config, job.objective, done):
            fresh = fresh_tables(config, job.given, job.tables, done)
            state = job.objective.restart(state, fresh)
            movie.add(state)
        if _is_saved(config, metrics["epoch"]):
            writer.save_epoch(metrics["epoch"], state, metrics)
        return state

    def on_call(state: Any, metrics: dict[str, Any]) -> None:
        bars.call(state)
        if writer.is_due() and not writer.holds(state):
            writer.save_partial(int(state.epoch), state, metrics)

    return run(
        job.objective,
        job.state,
        config.epochs,
        metrics=job.checkpoint.metrics if job.checkpoint else {},
        pause_after=lambda epoch: (
            movie.is_on or _is_saved(config, epoch) or is_fresh(config, job.objective, epoch + 1)
        ),
        on_epoch=on_epoch,
        on_pause=on_pause,
        on_call=on_call,
        interrupted=interrupted,
        look=_debug_look(job) if config.debug else None,
    )


def _debug_look(job: Job) -> Callable[[Any, int], int] | None:
    """Prints what the objective shows of its work under --debug."""
    look = job.objective.look(job.config.debug_every, job.config.debug_replay_every)
    if look is None:
        return None

    def show(state: Any, used: int) -> int:
        said, more = look(state, used)
        if said:
            note(f"[debug] {said}")
        return more

    return show


def _debug_epoch(objective: Objective, metrics: Mapping[str, Any]) -> None:
    note(f"[debug] epoch {metrics['epoch']}: {objective.details(metrics)}")


def _words_of_loss(run: Path, bars: Bars) -> str:
    """What to do when another process of the run is gone."""
    bars.close()
    saved = folders.paths_of(run)
    if not saved:
        return f"{run} holds no checkpoint"
    return f"{saved[-1]} is the newest checkpoint; --resume goes on, on any number of processes"


def _open_folder(job: Job) -> MetricsFile:
    """Makes the folder of a run ready to be written to; a run to overwrite goes."""
    run = job.folder
    try:
        run.mkdir(parents=True, exist_ok=True)
        if job.config.overwrite:
            folders.remove_run(run)
        folders.remove_unfinished(run)
        return MetricsFile(run / folders.METRICS_FILE, int(job.state.epoch))
    except OSError as error:
        raise UserError(f"{run}: cannot hold a run ({error.strerror})") from error


def _is_saved(config: Config, epoch: int) -> bool:
    return epoch % config.checkpoint_interval == 0 or epoch == config.epochs - 1
