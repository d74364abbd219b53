"""Reads and writes the files. torch is imported only when a file is opened or written."""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxstepper.errors import UserError, needing
from jaxstepper.torch_files.content import TorchCheckpoint, from_content, to_content
from jaxstepper.torch_files.variants import ANEW, refuse_what_torch_cannot_load

# The torch system leaves objects of this class in its `logs`.
FOREIGN_CLASS = "src.particle.ParticleTorch"

_PLAIN = (str, int, float, bool, type(None))


def file_name(epoch: int) -> str:
    """The name of the checkpoint after `epoch` (from 0)."""
    return f"model_epoch_{epoch:04d}.pt"


def write(path: str | os.PathLike[str], checkpoint: TorchCheckpoint) -> None:
    """Writes a file for the torch simulator, which also loads with `weights_only=True`.

    The file appears complete or not at all.

    Raises:
        UserError: torch is missing, or the file cannot be written.
        TypeError: a value of the checkpoint is neither plain nor an array.
    """
    torch = _import_torch()

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray | jax.Array):
            return torch.from_numpy(np.array(value, order="C"))
        value = value.item() if isinstance(value, np.generic) else value
        if type(value) not in _PLAIN:
            raise TypeError(f"a checkpoint holds plain values and arrays, not {type(value)}")
        return value

    content = _map_leaves(to_content(checkpoint), leaf, count())
    # The torch simulator looks for either name; the tensors are stored once.
    for name in ("model_state", "optimizer_state"):
        content[name] = content[f"{name}_dict"]
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "torch failed to write; is the disk full?"
        raise UserError(f"{path}: cannot be written ({reason}): choose another place") from None


def read(path: str | os.PathLike[str]) -> TorchCheckpoint:
    """Reads a checkpoint, ours or the torch system's own, without running code from it.

    Raises:
        UserError: torch is missing; the file is missing, damaged, not such a checkpoint, or names
            code to be run.
    """
    torch = _import_torch()
    path = Path(path)
    try:
        return from_content(_load(torch, path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a checkpoint; not opened") from None


class _Foreign:
    """Stands in for an object of the torch system: holds its attributes and does nothing else."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _load(torch: Any, path: Path) -> Any:
    """The content of a file as plain values and arrays; a foreign object becomes a dict."""
    try:
        if not path.is_file():
            raise UserError("is not a file: give the path of a model_epoch_XXXX.pt")
        size = path.stat().st_size
        refuse_what_torch_cannot_load(path)
        known = torch.serialization.safe_globals([(_Foreign, FOREIGN_CLASS)])
        with path.open("rb") as file, warnings.catch_warnings(), known:
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError:
        raise UserError("may not be read: check its permissions") from None
    except Exception as error:  # a damaged or hostile pickle can raise anything
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"names {named[1]}, which could run code, and was not opened; if it is a whole "
                f"module, {ANEW}"
            ) from None
        raise UserError("damaged, or no torch checkpoint: copy or export it again") from None

    # Every value takes at least a byte; more values than bytes are references that fan out.
    budget = iter(range(size))

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _to_numpy(torch, value)
        if type(value) is _Foreign:
            return _map_leaves(getattr(value, "attributes", {}), leaf, budget)
        return value if type(value) in _PLAIN else f"<{type(value).__name__}>"

    return _map_leaves(content, leaf, budget)


def _import_torch() -> Any:
    what = "a checkpoint of the torch simulator"
    with needing(f"{what} needs torch: pip install 'jaxstepper[torch]'"):
        import torch
    return torch


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """The numbers of a tensor, sharing its memory."""
    try:
        # Called on the class: a tensor from a file may carry attributes of these names.
        tensor = torch.Tensor.detach(tensor)
        size = tensor.numel() * tensor.element_size()
        # Strides of 0 would let a few bytes stand for more than the memory.
        if tensor.device.type == "cpu" and size <= tensor.untyped_storage().nbytes():
            if tensor.dtype == torch.bfloat16:  # which numpy lacks, but not JAX
                bits = tensor.contiguous().view(torch.int16).numpy(force=True)
                return bits.view(jax.numpy.bfloat16)
            return tensor.numpy(force=True)
    except (TypeError, RuntimeError, NotImplementedError):
        pass  # sparse, quantised, or of a type that numpy lacks
    raise UserError("holds a tensor that is not an ordinary array: export it again")


def _map_leaves(value: Any, leaf: Callable[[Any], Any], budget: Iterator[int]) -> Any:
    """Rebuilds dicts, lists and tuples, with `leaf` applied to everything in them."""
    if next(budget, None) is None:
        raise UserError("refers to more values than it can hold; not opened")
    if isinstance(value, dict):
        keys = (key if type(key) in _PLAIN else f"<{type(key).__name__}>" for key in value)
        # Not value.items(), which an object from a file could replace.
        values = (_map_leaves(item, leaf, budget) for item in dict.values(value))
        return dict(zip(keys, values, strict=True))
    if isinstance(value, list | tuple):
        items = [_map_leaves(item, leaf, budget) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return leaf(value)
