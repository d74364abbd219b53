"""Reads tables of bodies from text: whose columns have names or not, with units or not.

Columns are separated by commas, semicolons or blanks. #, % and ! begin a remark. What is not
understood is refused with the line it stands in.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxstepper.errors import UserError, require
from jaxstepper.physics.columns import (
    UNDERSTOOD,
    are_names,
    columns_of,
    may_be_names,
    name_and_unit,
)
from jaxstepper.physics.units import Units

FORTRAN_EXPONENT = re.compile(r"^(\s*[+-]?[\d.]+)[dD]([+-]?\d+\s*)$")
REMARK = re.compile(r"[#%!]")
SEPARATORS = ";,"
WORD = re.compile(r'"[^"]*"|\'[^\']*\'|\S+')
BLANKS_BEFORE_UNIT = re.compile(r"\s+(?=[\[(][^\])]*[\])])")
BRACKETS = re.compile(r"[\[(][^\])]*[\])]")
# As the header of an ECSV file has it: - {name: x, unit: AU, datatype: float64}
ECSV_UNIT = re.compile(r"\{\s*name:\s*([^,}]+),.*?unit:\s*([^,}]+)")
# A row of such words below the names is one of units.
ATOM = (
    r"(?:k|M|G|c|m)?(?:m|pc|g|yr|s)|[aA][uU]|[MmRr]_?(?:sun|earth|jup)|sol(?:Mass|Rad)|day|d|year|"
    r"M(?:Sun|Earth)|parsec"
)
UNIT_WORD = re.compile(rf"^(?:{ATOM})(?:\s*[/*. ]?\s*(?:{ATOM})(?:\*\*|\^)?-?\d?)*$")
# AMUSE's word for what has no unit but G = 1.
WITHOUT_UNIT = re.compile(r"^(?:nbody .*|none|-|)$")
KIND_OF = {"mass": "mass", "x": "length", "v": "speed"}


class Text(NamedTuple):
    """A table that was read.

    Attributes:
        table: `[N, 1 + 2 D]`.
        names: of the N bodies, or ().
        is_named: whether its columns have names.
    """

    table: npt.NDArray[np.float64]
    names: tuple[str, ...]
    is_named: bool


class _Header(NamedTuple):
    """A line of names, where it stands, and the units of all columns, if it or another has them."""

    number: int
    names: list[str]
    units: list[str]


Line = tuple[int, list[str]]


def read_text(text: str, path: Path, is_csv: bool, units: Units | None) -> Text:
    """The table in a text.

    Args:
        text: the content of the file.
        path: of the file, for messages.
        is_csv: whether any first line without a number is one of names.
        units: those of the bodies, to which columns with units are converted.

    Raises:
        UserError: something is not understood.
    """
    header: Line | None = None
    remarks: list[Line] = []
    rows: list[Line] = []
    of_ecsv: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line, remark = _without_remark(line)
        if not line.strip():
            if remark is not None and not rows:
                of_ecsv |= dict(ECSV_UNIT.findall(remark))
                names = remark.strip("#%! \t").rpartition(":")[2]  # as in "columns: m x v"
                remarks.append((number, _header_words(names)))
            continue
        words = _words(line) if rows or header else _header_words(line)
        if not rows and header is None and _is_header(words, is_csv):
            header = (number, words)
            continue
        words = _words(line)
        require(not rows or len(words) == len(rows[0][1]), _ragged(path, number, words, rows))
        rows.append((number, words))
    require(bool(rows), f"{path}: is empty; write one row 'mass x... v...' per body")
    width = len(rows[0][1])
    found = _found_header(header, remarks, width)
    if found is None:
        _warn_of_likely_names(path, remarks, width)
        return Text(_numbers(rows, range(width), [], path), (), False)
    if of_ecsv and not any(found.units):
        found = found._replace(units=[of_ecsv.get(name.strip(), "") for name in found.names])
    where = f"{path}: line {found.number}"
    message = f"names {len(found.names)} columns, but the rows have {width}; name every column"
    require(len(found.names) == width, f"{where} {message}")
    columns = columns_of(found.names, where)
    if columns.left_out:
        warnings.warn(f"{path}: column {', '.join(columns.left_out)} is not read", stacklevel=4)
    table = _numbers(rows, columns.numbers, found.names, path)
    table = table * _factors(found, columns.numbers, units, where)
    label = columns.label
    labels = () if label is None else tuple(words[label].strip("\"' \t") for _, words in rows)
    return Text(table, labels, True)


def _without_remark(line: str) -> tuple[str, str | None]:
    """A line without its remark, and that, if there is one."""
    mark = REMARK.search(line)
    return (line, None) if mark is None else (line[: mark.start()], line[mark.end() :])


def _words(line: str) -> list[str]:
    separator = next((each for each in SEPARATORS if each in line), None)
    if separator is None:
        return WORD.findall(line)
    pieces = re.split(rf"{separator}(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", line.strip())
    words = [each.strip() for each in pieces]
    # A separator at the end of every line adds no column.
    return words[:-1] if words[-1] == "" else words


def _header_words(line: str) -> list[str]:
    """The words of a line of names, each with its unit."""
    line = BRACKETS.sub(lambda match: re.sub(r"\s+", "", match[0]), line)
    return _words(BLANKS_BEFORE_UNIT.sub("", line))


def _is_header(words: list[str], is_csv: bool) -> bool:
    """Whether a line before all rows is one of names; in .csv, any line without a number is."""
    return not any(map(_is_number, words)) and "" not in words if is_csv else are_names(words)


def _found_header(header: Line | None, remarks: list[Line], width: int) -> _Header | None:
    """The line of names: the one above the rows, else the last remark that is one."""
    named = [each for each in remarks if len(each[1]) == width and are_names(each[1])]
    if header is None and not named:
        return None
    number, words = header or named[-1]
    split = [name_and_unit(word.strip("\"'")) for word in words]
    units = [unit for _, unit in split]
    below = dict(remarks).get(number + 1, [])
    is_row_of_units = len(below) == len(words) and all(
        UNIT_WORD.match(each) or WITHOUT_UNIT.match(each) for each in below
    )
    if is_row_of_units and not any(units):
        units = ["" if WITHOUT_UNIT.match(each) else each for each in below]
    return _Header(number, [name for name, _ in split], units)


def _warn_of_likely_names(path: Path, remarks: list[Line], width: int) -> None:
    """Warns of a remark with a word for every column, some of them names that are not understood.

    Such as those of orbital elements, or of polar coordinates.
    """
    for number, words in remarks:
        if len(words) == width and may_be_names(words):
            dim = (width - 1) // 2
            warnings.warn(
                f"{path}: line {number} is taken for a remark, and the columns for mass, {dim} of a"
                f" position and {dim} of a velocity; if it names them, write {UNDERSTOOD}",
                stacklevel=5,
            )
            return


def _factors(
    header: _Header, columns: Sequence[int], units: Units | None, where: str
) -> npt.NDArray[np.float64]:
    """What the columns of the table, mass, x... and v..., are multiplied by."""
    given = [header.units[at] for at in columns]
    if not any(given):
        return np.ones(len(given))
    names = [header.names[at].strip() for at in columns]
    for name, unit in zip(names, given, strict=True):
        other = next(filter(None, given))
        message = f"column {name!r} has no unit, others have, such as {other}; give all or none"
        require(unit != "", f"{where}: {message}")
    if units is None:
        shown = ", ".join(f"{n} in {u}" for n, u in zip(names[:2], given[:2], strict=True))
        raise UserError(
            f"{where}: the columns have units ({shown}, ...); say those of the run, such as "
            "--units au yr Msun, or give bodies for G = 1 without units"
        )
    dim = (len(columns) - 1) // 2
    kinds = ["mass"] + ["length"] * dim + ["speed"] * dim
    return np.array(
        [
            units.factor(kind, unit, f"{where}, column {name!r}")
            for kind, unit, name in zip(kinds, given, names, strict=True)
        ]
    )


def _ragged(path: Path, number: int, words: list[str], rows: list[Line]) -> str:
    width = len(rows[0][1]) if rows else len(words)
    rule = "give all the same"
    if width == 1:
        rule = f"if line {rows[0][0] if rows else 1} is a count or a title, put # before it"
    return f"{path}: line {number} has {len(words)} columns, those above {width}; {rule}"


def _numbers(
    rows: list[Line], columns: Sequence[int], names: Sequence[str], path: Path
) -> npt.NDArray[np.float64]:
    def where(number: int, i: int) -> str:
        name = f" ({names[i].strip()})" if names else ""
        return f"{path}: line {number}, column {i + 1}{name}"

    return np.array([[_number(words[i], where(at, i)) for i in columns] for at, words in rows])


def _is_number(word: str) -> bool:
    try:
        _number(word, "")
    except UserError:
        return False
    return True


def _number(word: str, where: str) -> float:
    require(word.strip() != "", f"{where}: is empty; give a number, or leave the body out")
    plain = FORTRAN_EXPONENT.sub(r"\1e\2", word)
    try:
        return float(plain.replace("_", "?"))  # float() takes 1_000, np.loadtxt does not
    except ValueError as error:
        rule = "write numbers separated by blanks, commas or semicolons"
        raise UserError(f"{where}: {word[:40]!r} is not a number; {rule}") from error
