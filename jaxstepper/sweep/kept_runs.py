"""The folder of a sweep: keeps and exports the run of the best trial, and removes the others."""

import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.reporting.note import note
from jaxstepper.runs.checkpoints import first_line
from jaxstepper.runs.exchange import export
from jaxstepper.runs.resume import what_was_set
from jaxstepper.runs.writer import save_run
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import to_dict
from jaxstepper.sweep.study import Study
from jaxstepper.sweep.trial import Trained

TRIAL = "trial-"
"""Prefix of the folders that hold the runs of trials."""

STORAGE = ".storage"
"""In the folder of a sweep: a digest of the URL of its database, which may hold a password."""


def claim(folder: Path, storage: str | None) -> None:
    """Notes in the folder of a sweep which database has its trials.

    Two databases of one folder would delete each other's best runs.

    Args:
        folder: of the sweep; made if need be.
        storage: the URL of the database, or None for the one in the folder.

    Raises:
        UserError: its trials are in another database.
    """
    mine = "here" if storage is None else sha256(storage.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), (folder / STORAGE).open("x") as file:
        file.write(mine)
    # Empty for the moment in which another process writes it.
    if (folder / STORAGE).read_text() not in ("", mine):
        raise UserError(
            f"{folder}: holds a sweep whose trials are in another --storage; give that one, or "
            "another --save-name"
        )


def keep_run(folder: Path, number: int, trained: Trained, sources: Mapping[str, str]) -> str | None:
    """Writes the run of a trial's median seed into the folder of the sweep.

    Returns its path, or None after a warning that it cannot be written.
    """
    start, run = trained.starts[trained.middle], trained.result.runs[trained.middle]
    place = folder / f"{TRIAL}{number}"
    config = replace(start.config, save_name=place.name, checkpoint_dir=str(folder))
    state = trained.result.states.member(trained.middle)
    about = {"given": what_was_set(Request(config, sources)), "wandb_id": None}
    try:
        save_run(place, state, start.tables, run.metrics, config=to_dict(config), about=about)
    except Exception as error:  # as in `checkpoints.read`
        warnings.warn(f"{place}: could not be saved ({first_line(error)})", stacklevel=2)
        shutil.rmtree(place, ignore_errors=True)
        return None
    return str(place)


def remove_others(folder: Path, study: Study) -> None:
    """Deletes the runs of trials that have ended, except the best."""
    best = {row.number for row in study.best()[:1]}
    for place in folder.glob(f"{TRIAL}*"):
        number = place.name.removeprefix(TRIAL)
        if number.isdecimal() and int(number) not in best and study.is_over(int(number)):
            shutil.rmtree(place, ignore_errors=True)


def export_run(run: Path) -> str | None:
    """Writes the .pt file of a run and returns its path, or None after a note that it cannot."""
    try:
        return str(export(run, None, run))
    except UserError as error:
        note(f"no .pt file: {error}")
        return None
