"""Checkpoint files of torch as they come: compressed, cut, of wrapped networks, in half precision.

What can be read with the right numbers is made what `content` expects; what cannot is named.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError

WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before the names of a network."""

HALVES = ("float16", "bfloat16")

ANEW = "save it anew: torch.save({'model_state_dict': model.state_dict(), 'config': ..}, FILE)"

_COMPRESSED = {
    b"\x1f\x8b": "gzip (gunzip FILE)",
    b"BZh": "bzip2 (bunzip2 FILE)",
    b"\xfd7zXZ": "xz (unxz FILE)",
    b"\x28\xb5\x2f\xfd": "zstd (unzstd FILE)",
}


def refuse_what_torch_cannot_load(path: Path) -> None:
    """Raises a UserError for a file that is compressed, cut short, or not of `torch.save`."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, how in _COMPRESSED.items():
        if head.startswith(magic):
            raise UserError(f"is compressed with {how}: decompress it first")
    if not head:
        raise UserError("is empty: copy or export it again")
    if not head.startswith(b"PK\x03\x04"):
        return
    if not zipfile.is_zipfile(path):
        raise UserError("damaged, cut short: copy or export it again")
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names:
            raise UserError(f"is TorchScript, a program, and was not opened; {ANEW}")
        # Torch does not compress: more content than file is an attempt to exhaust memory.
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise UserError("a compressed archive is not a torch checkpoint; not opened")


def unwrapped(content: dict[str, Any]) -> dict[str, Any]:
    """Content with the plain names of a network, and in single precision where it was half."""
    plain = dict(content)
    for key in ("model_state_dict", "model_state"):
        state = plain.get(key)
        if isinstance(state, dict):
            plain[key] = _without_wrappers(state)
    state = plain.get("model_state_dict", plain.get("model_state"))
    if isinstance(state, dict) and state and all(map(_is_half, state.values())):
        for key in ("model_state_dict", "model_state", "optimizer_state_dict", "optimizer_state"):
            if key in plain:
                plain[key] = _map_arrays(plain[key], _single)
        plain["dtype"] = "float32"
    return plain


def _without_wrappers(state: dict[Any, Any]) -> dict[Any, Any]:
    while wrapper := next(
        (each for each in WRAPPERS if state and all(str(name).startswith(each) for name in state)),
        None,
    ):
        state = {str(name).removeprefix(wrapper): value for name, value in state.items()}
    return state


def _is_half(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.name in HALVES


def _single(value: np.ndarray) -> np.ndarray:
    is_float = value.dtype.name in (*HALVES, "float64")
    return value.astype(np.float32) if is_float else value


def _map_arrays(tree: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    if isinstance(tree, dict):
        return {key: _map_arrays(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map_arrays(value, change) for value in tree)
    return change(tree) if isinstance(tree, np.ndarray) else tree
