"""Tables of bodies: reads, writes and checks them (numpy, on the host).

A table is float64 `[N, 1 + 2 D]`, columns mass, x..., v...; a batch is `[B, N, 1 + 2 D]`. G = 1.
Invalid tables raise `UserError`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import SupportsInt

import numpy as np
import numpy.typing as npt

from jaxstepper.errors import UserError, require
from jaxstepper.machine.memory import require_memory

Table = npt.NDArray[np.float64]
TEXT_SUFFIXES = (".txt", ".dat", ".csv")
# Reading a text of short numbers takes this many times its size.
GROWTH_OF_TEXT = 10


def load_table(path: str | Path) -> Table:
    """Reads a table from text (# comments), or a table or batch from `.npy`.

    Columns are separated by blanks; in `.csv` by commas, with or without a line of names.
    Coincident bodies pass, since a file does not know the softening: see `validate_table`.

    Raises:
        UserError: the file cannot be read, or holds no valid table.
    """
    path = Path(path)
    try:
        # Not /dev/zero, which never ends; pipes are fine, as in <(...) of a shell.
        require(not path.is_char_device(), f"{path}: is a device, not a file; check the path")
        is_npy = path.suffix == ".npy"
        growth = 1 if is_npy else GROWTH_OF_TEXT
        require_memory(growth * path.stat().st_size, f"{path}: to read it")
        table = _read_npy(path) if is_npy else _read_text(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return _checked_values(table, str(path))


def save_table(path: str | Path, table: Table) -> None:
    """Writes a table as text that keeps every float64 exactly, or a table or batch as `.npy`.

    Raises:
        UserError: the suffix is unknown, a batch would be text, the table is invalid, or the file
            cannot be written.
    """
    path = Path(path)
    table = _checked_values(table, str(path))
    known = (".npy", *TEXT_SUFFIXES)
    require(path.suffix in known, f"{path}: unknown suffix; use one of {', '.join(known)}")
    try:
        if path.suffix == ".npy":
            np.save(path, table)
        else:
            require(table.ndim == 2, f"{path}: text holds one system; save a batch as .npy")
            names = _column_names(table.shape[1])
            if path.suffix == ".csv":
                header = ",".join(names)
                np.savetxt(path, table, fmt="%.17g", delimiter=",", header=header, comments="")
            else:
                np.savetxt(path, table, fmt="%.17g", header=" ".join(names))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the path") from error


def validate_table(
    table: npt.ArrayLike,
    where: str,
    softening: float = 0.0,
    dim: int | None = None,
    num_particles: int | None = None,
) -> Table:
    """Checks a table or batch, and returns it as float64.

    Args:
        table: `[N, 1 + 2 D]` or `[B, N, 1 + 2 D]`.
        where: the beginning of the message, such as the file name.
        softening: if 0, two bodies in the same place are refused.
        dim: the number of dimensions asked for, if any.
        num_particles: the number of bodies asked for, if any.

    Raises:
        UserError: the first fault found.
    """
    values = _checked_values(table, where)
    bodies, columns = values.shape[-2:]
    found = (columns - 1) // 2
    require(dim in (None, found), f"{where}: has {found} dimensions, not {dim}; set dim = {found}")
    require(
        num_particles in (None, bodies),
        f"{where}: has {bodies} bodies, not {num_particles}; set num_particles = {bodies}",
    )
    for system in np.ndindex(values.shape[:-2]) if softening == 0 else ():
        position = values[system][:, 1 : 1 + found]
        order = np.lexsort(position.T)  # sorted, as all N^2 pairs of a large N would not fit
        same = np.all(position[order[1:]] == position[order[:-1]], axis=1)
        for at in np.flatnonzero(same)[:1]:
            first, second = sorted(order[at : at + 2])
            raise UserError(
                f"{where}: {_body_name((*system, first))} and body {second} are in the same place; "
                "move one, or set a softening > 0"
            )
    return values


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    # np.load would also open a zip of arrays under this name; a table is one plain array.
    try:
        with path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, EOFError, MemoryError) as error:
        raise UserError(
            f"{path}: is not a plain .npy array (empty, pickled or damaged); "
            "write it with np.save from an array of floats"
        ) from error


def _read_text(path: Path) -> Table:
    # The format of np.loadtxt, read here so that a fault is named by its line in the file.
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text; a binary table must end in .npy") from error
    is_csv = path.suffix == ".csv"
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        line = line.split("#")[0]
        words = line.split("," if is_csv and "," in line else None)
        is_header = is_csv and not rows and all(_is_name(word) for word in words)
        if not line.strip() or is_header:
            continue
        row = [
            _number(word, f"{path}: line {number}, column {i}") for i, word in enumerate(words, 1)
        ]
        width = len(rows[0]) if rows else len(row)
        message = f"line {number} has {len(row)} columns, those above {width}; give all the same"
        require(len(row) == width, f"{path}: {message}")
        rows.append(row)
    require(bool(rows), f"{path}: is empty; write one row 'mass x... v...' per body")
    return np.array(rows)


def _is_name(word: str) -> bool:
    name = word.strip().lower()
    return name.isidentifier() and name not in ("nan", "inf", "infinity")


def _number(word: str, where: str) -> float:
    try:
        return float(word.replace("_", "?"))  # float() takes 1_000, np.loadtxt does not
    except ValueError as error:
        message = f"{word[:40]!r} is not a number; write numbers separated by blanks (.csv: commas)"
        raise UserError(f"{where}: {message}") from error


def _checked_values(table: npt.ArrayLike, where: str) -> Table:
    """The table as float64, after checks of its type, shape and values."""
    array = np.asarray(table)
    shapes = "[N, 1 + 2 D] or a batch [B, N, 1 + 2 D]"
    # Kinds of numpy types: float, signed and unsigned integer.
    require(array.dtype.kind in "fiu", f"{where}: holds {array.dtype} values; give real numbers")
    require(array.ndim in (2, 3), f"{where}: has shape {array.shape}; give {shapes}")
    require(array.size > 0, f"{where}: is empty, shape {array.shape}; give {shapes}")
    bodies, columns = array.shape[-2:]
    message = f"{where}: has {columns} columns; give mass, D positions and D velocities (1 + 2 D)"
    require(columns >= 3 and columns % 2 == 1, message)
    require(bodies >= 2, f"{where}: has only one body; give two or more")
    with np.errstate(over="ignore"):  # of a wider type than ours: named below
        values = array.astype(np.float64)
    for *body, column in np.argwhere(~np.isfinite(values))[:1]:
        what = f"has {_column_names(columns)[column]} = {values[(*body, column)]}"
        raise UserError(f"{where}: {_body_name(body)} {what}; give a finite number")
    for body in np.argwhere(values[..., 0] <= 0)[:1]:
        mass = values[(*body, 0)]
        raise UserError(f"{where}: {_body_name(body.tolist())} has mass = {mass}; give a mass > 0")
    return values


def _body_name(index: Sequence[SupportsInt]) -> str:
    *system, body = index
    prefix = f"system {system[0]}, " if system else ""
    return f"{prefix}body {body} (counted from 0)"


def _column_names(columns: int) -> list[str]:
    axes = range((columns - 1) // 2)
    return ["mass", *(f"x{axis}" for axis in axes), *(f"v{axis}" for axis in axes)]
