"""Opens a training run: a new one, or one to resume."""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.machine.processes import from_main, is_main
from jaxstepper.reporting.note import note
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.bodies import warn_of_unused_orbit
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.runs.jax_setup import configure_jax
from jaxstepper.runs.lock import locked
from jaxstepper.runs.places import check_run_place
from jaxstepper.runs.resume import resumed_config, what_was_set
from jaxstepper.runs.start import resume_training, start_run
from jaxstepper.settings.checks import warn_of_ineffective
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.training.objective import Objective


@dataclass(frozen=True)
class Job:
    """A run that is ready to train.

    Attributes:
        config: that of the run.
        given: the options that were set explicitly when the run began, as plain values.
        tables: the initial conditions `[B, N, 1 + 2 D]` that it began with.
        objective: what is trained.
        state: where it stands.
        checkpoint: the one that it goes on from, if it is resumed.
    """

    config: Config
    given: Mapping[str, Any]
    tables: np.ndarray
    objective: Objective
    state: Any
    checkpoint: Checkpoint | None = None

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return folder_of(self.config)

    @property
    def about(self) -> Mapping[str, Any]:
        """The notes of the run in its checkpoint."""
        return self.checkpoint.about if self.checkpoint else {}


def folder_of(config: Config) -> Path:
    """The folder of the run that a config names."""
    return Path(config.checkpoint_dir) / str(config.save_name)


@contextmanager
def open_job(request: Request) -> Iterator[Job]:
    """A new run, or one that is resumed; nobody else writes in its folder meanwhile.

    Raises:
        UserError: an option cannot be used, or a run of this name exists or is being written.
    """
    config = request.config
    if config.resume and config.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if config.resume and config.save_name is None:
        raise UserError("--resume needs --save-name, the name of the run to go on with")
    if config.save_name is None:
        request = request.replace(save_name=fresh_name())
    run = folder_of(request.config)
    check_run_place(run)
    with locked(run) if is_main() else nullcontext():
        yield _job(request, run)


def _job(request: Request, run: Path) -> Job:
    config = request.config
    if folders.paths_of(run):
        if config.resume:
            return _resumed_job(request, checkpoints.load(run))
        if not config.overwrite:
            raise UserError(
                f"{run}: there is a run of this name; --resume goes on with it, --overwrite "
                "deletes it, --save-name names another"
            )
    job = _new_job(request)
    if config.resume:
        note(f"{run}: no checkpoint to resume from; the run starts at epoch 0")
    return job


def _new_job(request: Request) -> Job:
    start, asked = start_run(request), what_was_set(request)
    _warn_of_training(Request(start.config, request.sources), start.objective)
    return Job(start.config, asked, start.tables, start.objective, start.state)


def _resumed_job(request: Request, checkpoint: Checkpoint) -> Job:
    config = configure_jax(resumed_config(request, checkpoint))
    given = checkpoint.about.get("given", {})
    tables = checkpoint.initial_conditions
    return Job(config, given, tables, *resume_training(config, checkpoint), checkpoint)


def _warn_of_training(request: Request, objective: Objective) -> None:
    config = request.config
    one_of_file = config.ic_path is not None and not request.sets("num_orbits")
    if config.num_orbits > 1 and not config.multi_orbit and not one_of_file:
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
    if config.movie and not objective.follows_paths:
        kind = f"{config.objective} training"
        warnings.warn(f"--movie: {kind} follows no path, so no movie is made", stacklevel=2)
    warn_of_ineffective(request)
    warn_of_unused_orbit(request, config.multi_orbit)


def fresh_name() -> str:
    """A name for a run without one."""
    return time.strftime("run-%Y%m%d-%H%M%S", time.localtime(from_main(int(time.time()))))
