"""Checkpoints of a run: a folder `<checkpoint_dir>/<run>/<epoch>/` each, kept by Orbax.

A checkpoint is a nested dict of arrays (the whole `TrainState`) and, as its metadata, the config,
the metrics of the epoch and the version of this layout.
"""

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxstepper.errors import UserError

FORMAT = 1
"""Version of the layout; a higher one was written by a newer jaxstepper."""

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        epoch: zero-based.
        config: the flat config of the run.
        metrics: of that epoch.
        arrays: nested dict of numpy arrays; `restore` puts them into a pytree.
    """

    path: Path
    epoch: int
    config: dict[str, Any]
    metrics: dict[str, Any]
    arrays: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """Of the network: {"params": ..., "constants": ...}."""
        return {"constants": {}, **self.arrays["state"]["variables"]}

    @property
    def initial_conditions(self) -> np.ndarray:
        """The tables `[B, N, 1 + 2 D]` that the run started from."""
        return self.arrays["initial_conditions"]


class RunWriter:
    """Writes the checkpoints of one run, in the background."""

    def __init__(self, checkpointer: ocp.training.Checkpointer) -> None:
        self._checkpointer = checkpointer

    def save(
        self,
        epoch: int,
        state: Any,
        *,
        config: dict[str, Any],
        metrics: dict[str, Any],
        initial_conditions: np.ndarray,
    ) -> None:
        """Copies `state` to the host and starts writing it; an earlier epoch is complete then."""
        arrays = {"state": to_arrays(state), "initial_conditions": np.asarray(initial_conditions)}
        about = {"format": FORMAT, "config": config, "metrics": metrics}
        self._checkpointer.save_async(
            epoch, arrays, force=True, overwrite=True, custom_metadata=about
        )


@contextmanager
def open_run(directory: Path) -> Iterator[RunWriter]:
    """A writer for the run in `directory`; on leaving, everything saved is on disk."""
    directory.mkdir(parents=True, exist_ok=True)
    with ocp.training.Checkpointer(directory.resolve()) as checkpointer:
        yield RunWriter(checkpointer)


def to_arrays(tree: Any) -> dict[str, Any]:
    """A pytree as nested dicts of numpy arrays, by the names of its fields.

    Empty arrays are left out: Orbax does not store them, and their shape says all about them.
    """
    nested: dict[str, Any] = {}
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    for path, leaf in zip(paths, jax.device_get(leaves), strict=True):
        if np.size(leaf):
            *folders, name = _names(path)
            place = nested
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = np.asarray(leaf)
    return nested


def restore(checkpoint: Checkpoint, template: Tree) -> Tree:
    """The state of a checkpoint in the structure, shapes and dtypes of `template`.

    Raises:
        UserError: the checkpoint holds something else.
    """

    def leaf(path: tuple[Any, ...], like: Any) -> Any:
        if not np.size(like):
            return like
        value: Any = checkpoint.arrays["state"]
        for name in _names(path):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or np.shape(value) != np.shape(like):
            where = "/".join(_names(path))
            raise UserError(f"{checkpoint.path}: holds another kind of run ({where} does not fit)")
        return jax.numpy.asarray(value, dtype=like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, template)


def _names(path: tuple[Any, ...]) -> list[str]:
    return [re.sub(r"\W", "", str(entry)) for entry in path]


def locate(model_path: str, checkpoint_dir: str) -> tuple[Path, int | None]:
    """The folder of a run, and the epoch if one is named, from `RUN` or `RUN/EPOCH`.

    RUN is a path, or a name below `checkpoint_dir`.

    Raises:
        UserError: there is no such run.
    """
    for path in (Path(model_path), Path(checkpoint_dir) / model_path):
        if epochs_of(path):
            return path, None
        if path.name.isdecimal() and int(path.name) in epochs_of(path.parent):
            return path.parent, int(path.name)
        if path.name.isdecimal() and epochs_of(path.parent):
            saved = ", ".join(map(str, epochs_of(path.parent)))
            raise UserError(f"{model_path}: no such epoch; {path.parent} holds {saved}")
    raise UserError(
        f"{model_path}: no checkpoint there; give a run's name or folder, RUN/EPOCH, or a .pt file"
    )


def epochs_of(run: Path) -> list[int]:
    """The epochs that a run has checkpoints of, in order."""
    if not run.is_dir():
        return []
    return sorted(
        int(each.name)
        for each in run.iterdir()
        if each.name.isdecimal() and (each / "_CHECKPOINT_METADATA").is_file()
    )


def load(run: Path, epoch: int | None = None) -> Checkpoint:
    """A checkpoint of a run, its newest unless `epoch` says which.

    Raises:
        UserError: it cannot be read, or was written by a newer version.
    """
    epoch = epochs_of(run)[-1] if epoch is None else epoch
    path = run / str(epoch)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),
            ocp.training.Checkpointer(run.resolve()) as checkpointer,
        ):
            about = checkpointer.metadata(epoch).custom_metadata
            arrays = checkpointer.load(epoch)
    except (OSError, ValueError, KeyError, ocp.errors.InvalidLayoutError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: not a checkpoint of jaxstepper")
    if about["format"] > FORMAT:
        raise UserError(
            f"{path}: written by a newer jaxstepper (format {about['format']}, this one reads up "
            f"to {FORMAT}); upgrade jaxstepper"
        )
    arrays = jax.tree.map(np.asarray, arrays)
    return Checkpoint(path, epoch, about["config"], about["metrics"], arrays)


def remove_run(run: Path) -> None:
    """Deletes the checkpoints of a run, and nothing else in its folder."""
    for epoch in epochs_of(run):
        shutil.rmtree(run / str(epoch))
