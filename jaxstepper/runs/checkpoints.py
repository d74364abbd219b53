"""Checkpoints of a run: a folder `<checkpoint_dir>/<run>/<name>/` each, written by Orbax.

A checkpoint is a nested dict of arrays (the whole `TrainState`) and, as its metadata, the config,
the metrics of the epoch and the version of this layout. The file SHA256SUMS beside them seals it.
It is named after its epoch, counted from 0: `12` was saved at the end of epoch 12, and `12.3` is
the third that was saved in the middle of it.
"""

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxstepper.errors import UserError
from jaxstepper.machine.processes import are_several, is_main, to_host, try_on_main
from jaxstepper.runs.folders import SAVING, epoch_of, paths_of
from jaxstepper.runs.seal import Damaged, check_seal, seal

FORMAT = 2
"""Version of the layout; a higher one was written by a newer jaxstepper."""

METADATA = "_CHECKPOINT_METADATA"
"""Orbax's file, in a checkpoint, of what it says beside its arrays."""

ADDED_LATER = "progress"
"""A field of the state that checkpoints of training on windows once did not have."""

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        epoch: the epoch it was saved in, from 0.
        config: the flat config of the run.
        metrics: those of the last epoch that had ended.
        about: other notes of the run; JSON values.
        arrays: nested dict of numpy arrays; `restore` puts them into a pytree.
    """

    path: Path
    epoch: int
    config: dict[str, Any]
    metrics: dict[str, Any]
    about: dict[str, Any]
    arrays: dict[str, Any]

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the network, {"params": ..., "constants": ...}."""
        return {"constants": {}, **self.arrays["state"]["variables"]}

    @property
    def initial_conditions(self) -> np.ndarray:
        """The tables `[B, N, 1 + 2 D]` that the run started from."""
        return self.arrays["initial_conditions"]


def load(run: Path, name: str | int | None = None) -> Checkpoint:
    """Loads the checkpoint of this name, or the newest intact one, and warns of damaged ones.

    A run may be training meanwhile: a checkpoint that it deletes is passed over for a newer one.

    Raises:
        UserError: it is damaged, or all are; or another version wrote it.
    """
    paths = paths_of(run) if name is None else [run / str(name)]
    damaged: list[str] = []
    for path in reversed(paths):
        try:
            checkpoint = read(path)
        except Damaged as error:
            if not path.exists():
                if name is None:
                    return load(run)
                raise UserError(f"{path}: was deleted; {run} goes on without it") from None
            damaged.append(f"{path}: damaged ({error})")
            continue
        for line in damaged:
            warnings.warn(f"{line}; {checkpoint.path} is used", stacklevel=2)
        return checkpoint
    if not damaged:
        raise UserError(f"{run}: no checkpoint there")
    others = f", and so are the {len(damaged) - 1} older ones" if len(damaged) > 1 else ""
    raise UserError(f"{damaged[0]}{others}")


def read(path: Path) -> Checkpoint:
    """Reads and checks a checkpoint.

    Raises:
        Damaged: it is not what was written.
        UserError: another version wrote it.
    """
    check_seal(path)
    try:
        with warnings.catch_warnings(action="ignore"), _alone():
            about = ocp.metadata(path.resolve()).custom_metadata
            arrays = jax.tree.map(np.asarray, ocp.load(path.resolve()))
    except Exception as error:  # Orbax, tensorstore and json raise a dozen kinds
        raise Damaged(first_line(error)) from error
    if not isinstance(about, dict) or "format" not in about:
        raise Damaged("it does not say what it is")
    _check_format(path, about["format"])
    config, metrics, notes = (about[name] for name in ("config", "metrics", "about"))
    return Checkpoint(path, epoch_of(path), config, metrics, notes, arrays)


def metrics_of(path: Path) -> dict[str, Any]:
    """The metrics of a checkpoint, whose seal is not checked; `Damaged` if they cannot be read."""
    return words_of(path)["metrics"]


def words_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says beside its arrays: config, metrics, about.

    Its seal is not checked; raises `Damaged` if they cannot be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), _alone():
            words = ocp.metadata(path.resolve()).custom_metadata
            return {name: words[name] for name in ("config", "metrics", "about")}
    except Exception as error:
        raise Damaged(first_line(error)) from error


def annotate(path: Path, notes: Mapping[str, Any]) -> None:
    """Adds to the notes of a checkpoint (`about`), JSON values, and seals it anew.

    Raises:
        Damaged: it is not what was written.
    """
    check_seal(path)
    file = path / METADATA
    words = json.loads(file.read_text(encoding="utf-8"))
    words["custom_metadata"]["about"] |= notes
    file.write_text(json.dumps(words), encoding="utf-8")
    seal(path)


def _alone() -> AbstractContextManager[Any]:
    """Lets each process read on its own; Orbax would make them wait for each other."""
    if not are_several():
        return nullcontext()
    context, this = ocp.Context(), jax.process_index()
    context.multiprocessing.primary_host = this
    context.multiprocessing.active_processes = {this}
    context.multiprocessing.barrier_sync_key_prefix = f"process{this}"
    return context


def _check_format(path: Path, number: Any) -> None:
    if number == FORMAT:
        return
    newer = isinstance(number, int) and number > FORMAT
    which, what = ("a newer", "upgrade it") if newer else ("an older", "train anew")
    raise UserError(
        f"{path}: written by {which} jaxstepper (format {number}, this one reads {FORMAT}); {what}"
    )


def first_line(error: Exception) -> str:
    """The message of another package's error, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.split("\n")[0].strip()[:120] or type(error).__name__


def restore(checkpoint: Checkpoint, template: Tree) -> Tree:
    """The state of a checkpoint, with structure, shapes, dtypes and devices of `template`.

    The leaves of `template` are arrays or `jax.ShapeDtypeStruct`. The checkpoint may have been
    written on any number of devices.

    Raises:
        UserError: the checkpoint holds something else.
    """

    def leaf(path: tuple[Any, ...], like: Any) -> Any:
        if not np.prod(like.shape):
            return _placed(np.zeros(like.shape), like)
        value: Any = checkpoint.arrays["state"]
        if _names(path)[0] == ADDED_LATER and ADDED_LATER not in value:
            return like  # saved between epochs, where fresh progress is right
        for name in _names(path):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None or np.shape(value) != np.shape(like):
            where = "/".join(_names(path))
            raise UserError(f"{checkpoint.path}: holds another kind of run ({where} does not fit)")
        return _placed(value, like)

    return jax.tree_util.tree_map_with_path(leaf, template)


def _placed(value: Any, like: Any) -> Any:
    """A value with dtype and devices of another.

    It is bound to devices only where the other is: the program of a run would otherwise be another
    than that of its beginning, and compiled anew.
    """
    sharding = like.sharding if getattr(like, "committed", True) else None
    return jax.device_put(np.asarray(value, like.dtype), sharding)


def write(
    path: Path,
    state: Any,
    initial_conditions: np.ndarray,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Callable[[], None]:
    """Copies `state` to the host and starts writing a checkpoint, which appears when it is whole.

    All processes of a run must call it; the main process writes. Returns a function that waits for
    the end of writing, and raises what went wrong.
    """
    arrays = {"state": to_arrays(state), "initial_conditions": np.array(initial_conditions)}
    words = {"format": FORMAT, "config": config, "metrics": metrics, "about": about}
    needed = sum(array.nbytes for array in jax.tree.leaves(arrays))
    try_on_main(partial(_check_room, path.parent, needed))
    beside = path.with_name(f"{SAVING}{path.name}")
    saving = ocp.save_async(beside.resolve(), arrays, custom_metadata=words)

    def finish() -> None:
        saving.result()
        if is_main():
            seal(beside)
            beside.rename(path)

    pool = ThreadPoolExecutor(1)
    finished = pool.submit(finish)
    pool.shutdown(wait=False)
    return finished.result


def _check_room(folder: Path, needed: int) -> None:
    """Raises if the disk is full; Orbax's threads would fail one by one, at length."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"a checkpoint of {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {what}")


def to_arrays(tree: Any) -> dict[str, Any]:
    """A pytree as nested dicts of numpy arrays, by the names of its fields.

    They are copies: on a CPU `device_get` may return the buffers themselves, which training
    overwrites. Empty arrays are left out: Orbax does not store them, and their shape is enough.
    """
    nested: dict[str, Any] = {}
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    for path, leaf in zip(paths, jax.device_get(to_host(leaves)), strict=True):
        if np.size(leaf):
            *folders, name = _names(path)
            place = nested
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = np.array(leaf)
    return nested


def _names(path: tuple[Any, ...]) -> list[str]:
    return [re.sub(r"\W", "", str(entry)) for entry in path]
