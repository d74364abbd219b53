"""Tables of bodies: reads, writes and checks them (numpy, on the host).

A table is float64 `[N, 1 + 2 D]`, columns mass, x..., v...; a batch is `[B, N, 1 + 2 D]`. G = 1.
Invalid tables raise `UserError`. Whether values overflow in the dtype of a run, `precision` says.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, SupportsInt

import numpy as np
import numpy.typing as npt

from jaxstepper.errors import UserError, require
from jaxstepper.machine.memory import physical_memory, require_memory
from jaxstepper.physics.text_tables import read_text
from jaxstepper.physics.units import Units

Table = npt.NDArray[np.float64]
TEXT_SUFFIXES = (".txt", ".dat", ".csv")
# Reading a text of short numbers takes this many times its size.
GROWTH_OF_TEXT = 10
READ_AT_ONCE = 2**24
# More are likely columns that are no part of a table, unless they are asked for.
MOST_DIMENSIONS = 3
GZIP = b"\x1f\x8b"
# The longer marks first: that of UTF-32 begins as that of UTF-16.
ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What no text holds, in any encoding that is the right one.
CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r\f\v\x1a")


class Bodies(NamedTuple):
    """Bodies of a file.

    Attributes:
        table: `[N, 1 + 2 D]` or a batch `[B, N, 1 + 2 D]`.
        names: of the N bodies; () if they have none.
    """

    table: Table
    names: tuple[str, ...] = ()


def load_table(
    path: str | Path, dim: int | None = None, in_field: bool = False, units: Units | None = None
) -> Table:
    """The table of `load_bodies`, which has the arguments and errors too."""
    return load_bodies(path, dim, in_field, units).table


def load_bodies(
    path: str | Path, dim: int | None = None, in_field: bool = False, units: Units | None = None
) -> Bodies:
    """Reads a table from text, or a table or batch from `.npy`; either may be `.gz`.

    Columns are separated by blanks, commas or semicolons; #, % and ! begin remarks. They are mass,
    x..., v..., unless a line of names above them, in text behind a mark of remarks, says otherwise
    (see `columns`). Numbers may have the exponents of Fortran, 1.0D+00. Coincident bodies pass,
    since a file does not know the softening: see `validate_table`.

    Args:
        path: the file.
        dim: the number of dimensions, if it is known: more than three need it, or names.
        in_field: whether the bodies are in an external field, where one is enough.
        units: those of the bodies. Columns without units are in these, others are converted.

    Raises:
        UserError: the file cannot be read, or holds no valid table.
    """
    path = Path(path)
    try:
        # Not /dev/zero, which never ends; pipes are fine, as in <(...) of a shell.
        require(not path.is_char_device(), f"{path}: is a device, not a file; check the path")
        kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        growth = 1 if kind == ".npy" else GROWTH_OF_TEXT
        require_memory(growth * path.stat().st_size, f"{path}: to read it")
        content = _unpacked(path.read_bytes(), growth, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    names: tuple[str, ...] = ()
    if kind == ".npy":
        table, named = _read_npy(content, path), False
    else:
        table, names, named = read_text(_decoded(content, path), path, kind == ".csv", units)
    values = _checked_values(table, str(path), in_field)
    found = (values.shape[-1] - 1) // 2
    require(
        found <= MOST_DIMENSIONS or named or dim is not None,
        f"{path}: has {values.shape[-1]} columns, which would be {found} dimensions; if they are, "
        f"ask for them (--dim {found}), else name the columns in a first line (mass x y z vx ...)",
    )
    return Bodies(values, names)


def save_table(path: str | Path, table: Table, units: Units | None = None) -> None:
    """Writes a table as text that keeps every float64 exactly, or a table or batch as `.npy`.

    Args:
        path: the file.
        table: `[N, 1 + 2 D]`, or a batch `[B, N, 1 + 2 D]`.
        units: those of the table, for the names of the columns of a text.

    Raises:
        UserError: the suffix is unknown, a batch would be text, the table is invalid, or the file
            cannot be written.
    """
    path = Path(path)
    table = _checked_values(table, str(path), in_field=True)
    known = (".npy", *TEXT_SUFFIXES)
    require(path.suffix in known, f"{path}: unknown suffix; use one of {', '.join(known)}")
    try:
        if path.suffix == ".npy":
            np.save(path, table)
        else:
            require(table.ndim == 2, f"{path}: text holds one system; save a batch as .npy")
            names = _column_names(table.shape[1])
            if units is not None:
                unit_of = {"m": units.mass, "x": units.length, "v": units.speed}
                names = [f"{name}({unit_of[name[0]].replace(' ', '')})" for name in names]
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
    in_field: bool = False,
) -> Table:
    """Checks a table or batch, and returns it as float64.

    Args:
        table: `[N, 1 + 2 D]` or `[B, N, 1 + 2 D]`.
        where: the beginning of the message, such as the file name.
        softening: if 0, two bodies in the same place are refused.
        dim: the number of dimensions asked for, if any.
        num_particles: the number of bodies asked for, if any.
        in_field: whether the bodies are in an external field, where one is enough.

    Raises:
        UserError: the first fault found.
    """
    values = _checked_values(table, where, in_field)
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


def _unpacked(content: bytes, growth: int, path: Path) -> bytes:
    """The content, decompressed if it is that of gzip."""
    if not content.startswith(GZIP):
        return content
    try:
        # Reads no more than fits: a small file may decompress to any size.
        most, unpacked = physical_memory() / growth, bytearray()
        with gzip.open(io.BytesIO(content)) as file:
            while len(unpacked) <= most and (piece := file.read(READ_AT_ONCE)):
                unpacked += piece
    except (EOFError, zlib.error, OSError) as error:
        raise UserError(f"{path}: is damaged gzip; compress the table again") from error
    require_memory(growth * len(unpacked), f"{path}: to read it")
    return bytes(unpacked)


def _decoded(content: bytes, path: Path) -> str:
    """Text by its byte order mark, or else UTF-8; or else Latin-1, if it looks like text."""
    encoding = next((name for mark, name in ENCODINGS.items() if content.startswith(mark)), "")
    if not encoding:
        try:
            content.decode(encoding := "utf-8")
        except UnicodeDecodeError:
            encoding = "latin-1"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in {encoding}; save it as UTF-8") from error
    if CONTROL.intersection(text):
        rule = "a binary table must end in .npy; text is UTF-8, or UTF-16 with a byte order mark"
        if content.startswith(b"REBOUND"):
            rule = "an archive of rebound is for programs, js.from_rebound(PATH)"
        raise UserError(f"{path}: is not text; {rule}")
    return text


def _read_npy(content: bytes, path: Path) -> npt.NDArray[np.generic]:
    # np.load would also open a zip of arrays under this name; a table is one plain array.
    try:
        return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))
    except (ValueError, EOFError, MemoryError) as error:
        raise UserError(
            f"{path}: is not a plain .npy array (empty, pickled or damaged); "
            "write it with np.save from an array of floats"
        ) from error


def _checked_values(table: npt.ArrayLike, where: str, in_field: bool = False) -> Table:
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
    message = "has only one body; give two or more, or an external field (--external-field-mass)"
    require(bodies >= 2 or in_field, f"{where}: {message}")
    with np.errstate(over="ignore"):  # of a wider type than ours: named below
        values = array.astype(np.float64)
    for *body, column in np.argwhere(~np.isfinite(values))[:1]:
        what = f"has {_column_names(columns)[column]} = {values[(*body, column)]}"
        raise UserError(f"{where}: {_body_name(body)} {what}; give a finite number")
    for body in np.argwhere(values[..., 0] < 0)[:1]:
        what = f"{_body_name(body.tolist())} has mass = {values[(*body, 0)]}"
        raise UserError(f"{where}: {what}; give a mass >= 0")
    for system in np.argwhere(np.all(values[..., 0] == 0, axis=-1))[: 0 if in_field else 1]:
        prefix = f"system {system[0]}: " if system.size else ""
        raise UserError(f"{where}: {prefix}no body has a mass > 0; give one a mass")
    return values


def _body_name(index: Sequence[SupportsInt]) -> str:
    *system, body = index
    prefix = f"system {system[0]}, " if system else ""
    return f"{prefix}body {body} (counted from 0)"


def _column_names(columns: int) -> list[str]:
    axes = range((columns - 1) // 2)
    return ["mass", *(f"x{axis}" for axis in axes), *(f"v{axis}" for axis in axes)]
