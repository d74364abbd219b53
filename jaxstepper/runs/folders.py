"""The folders of runs: the checkpoints in them, and which run a user means."""

import re
import shutil
from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.settings.values import nearest

METRICS_FILE = "metrics.jsonl"
"""Beside the checkpoints of a run: a line of metrics for every epoch."""

NAME = re.compile(r"(\d+)(?:\.(\d+))?")
SAVING, DELETED = ".saving-", ".deleted-"
"""Before the name of a checkpoint: it is being written, or deleted; readers do not see it."""

UNFINISHED = (f"{SAVING}*", f"{DELETED}*", "*.orbax-checkpoint-tmp*")

SHIPPED = Path(__file__).parents[1] / "models"
"""The runs that come with the package."""

SHOWN = 12
"""Most names of runs in a message."""


def paths_of(run: Path) -> list[Path]:
    """The checkpoints in the folder of a run, by their names; the oldest first."""
    if not run.is_dir():
        return []
    return sorted(
        (each for each in run.iterdir() if NAME.fullmatch(each.name) and each.is_dir()),
        key=_position,
    )


def _position(path: Path) -> tuple[int, float]:
    match = NAME.fullmatch(path.name)
    assert match
    epoch, part = match.groups()
    return int(epoch), float("inf") if part is None else int(part)


def epoch_of(path: Path) -> int:
    """The epoch that a checkpoint was saved in, from 0."""
    return _position(path)[0]


def is_partial(path: Path) -> bool:
    """Whether a checkpoint was saved in the middle of an epoch."""
    return "." in path.name


def epochs_of(run: Path) -> list[int]:
    """The epochs at whose end a run was saved, in order."""
    return [int(path.name) for path in paths_of(run) if not is_partial(path)]


def shipped() -> list[str]:
    """The names of the models that come with the package."""
    return runs_in(SHIPPED)


def is_shipped(run: Path) -> bool:
    """Whether a run is one that comes with the package, in whose folder nothing is written."""
    return run.parent == SHIPPED


def locate(model_path: str, checkpoint_dir: str) -> tuple[Path, str | None]:
    """The folder of the run that `RUN` or `RUN/NAME` means, and the NAME of its checkpoint.

    RUN is a path, a name below `checkpoint_dir`, or the name of a model that comes with the
    package, which may be written as if it lay in `checkpoint_dir`.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    runs, named = Path(checkpoint_dir), Path(model_path)
    above, whole = runs.absolute(), named.absolute()
    name = whole.relative_to(above) if whole.is_relative_to(above) else named
    for path in (named, runs / named, SHIPPED / name):
        if NAME.fullmatch(path.name) and paths_of(path.parent):
            if path in paths_of(path.parent):
                return path.parent, path.name
            saved = ", ".join(each.name for each in paths_of(path.parent))
            raise UserError(f"{model_path}: no such epoch; {path.parent} holds {saved}")
        if paths_of(path):
            return path, None
    raise UserError(_words_of_absence(named, runs))


def _words_of_absence(named: Path, runs: Path) -> str:
    """Where a run was looked for, and what there is."""
    found, ours = runs_in(runs), shipped()
    there = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
    close = nearest(str(named), [*found, *ours], "")
    return (
        f"{named}: no checkpoint there, nor in {runs / named}"
        + (f"; {close}" if close else "")
        + (f"; {runs} holds {there}" if found else f"; {runs} holds no run")
        + f"; with jaxstepper come {', '.join(ours)}; give a run's name or folder, RUN/EPOCH, or a "
        ".pt file"
    )


def runs_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(each.name for each in folder.iterdir() if paths_of(each))


def remove_run(run: Path) -> None:
    """Deletes the checkpoints and the metrics of a run, and nothing else in its folder."""
    for path in paths_of(run):
        delete(path)
    remove_unfinished(run)
    (run / METRICS_FILE).unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Deletes a checkpoint; it is gone at once, so that nobody reads half of it."""
    gone = path.with_name(f"{DELETED}{path.name}")
    path.rename(gone)
    shutil.rmtree(gone)


def remove_unfinished(run: Path) -> None:
    """Deletes the checkpoints that a killed run left half written or half deleted."""
    for pattern in UNFINISHED:
        for path in run.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
