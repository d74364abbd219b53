"""Checks places where results will be written, before the work that produces them."""

import errno
import os
import tempfile
from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.runs import folders


def check_file_place(path: Path, what: str) -> None:
    """Raises a UserError, which begins with `what`, if a file cannot be written at `path`."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "the file there is write-protected")
        _try(path.parent)
    except OSError as error:
        raise _refusal(what, error) from error


def check_folder_place(path: Path, what: str) -> None:
    """As `check_file_place`, for files in the folder `path`, which need not exist yet."""
    try:
        _try(path)
    except OSError as error:
        raise _refusal(what, error) from error


def check_run_place(run: Path) -> None:
    """Raises a UserError if a folder cannot be written, or lies within another run."""
    check_folder_place(run, str(run))
    for folder in run.parents:
        if folders.epochs_of(folder):
            raise UserError(f"{run}: lies in {folder}, which is a run itself; choose another name")


def _try(folder: Path) -> None:
    """Makes a nameless file in the folder, or in the nearest one above that exists."""
    while not folder.exists():  # raises if a name is too long
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass


def _refusal(what: str, error: OSError) -> UserError:
    return UserError(f"{what}: cannot be written ({error.strerror}); choose another place")
