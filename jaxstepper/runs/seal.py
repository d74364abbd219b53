"""Checksums of a checkpoint: Orbax would load a flipped bit without a word."""

import hashlib
from pathlib import Path

SEAL = "SHA256SUMS"
"""In a checkpoint: the checksums of its files, as the command sha256sum prints and checks them."""


class Damaged(Exception):
    """A checkpoint cannot be read, or is not what was written; the message says why."""


def seal(path: Path) -> None:
    """Writes down the checksums of a checkpoint, which says that it is whole."""
    beside = path / f"{SEAL}.new"
    beside.write_text(_checksums(path))
    beside.replace(path / SEAL)


def check_seal(path: Path) -> None:
    """Raises `Damaged` if the files of a checkpoint differ from their checksums."""
    try:
        sealed, found = (path / SEAL).read_bytes(), _checksums(path).encode()
    except OSError as error:
        raise Damaged("its checksums are not there: it is not whole") from error
    if sealed != found:
        raise Damaged("its files do not fit their checksums")


def _checksums(path: Path) -> str:
    lines = []
    for file in sorted(each for each in path.rglob("*") if each.is_file() and each.name != SEAL):
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"{checksum}  {file.relative_to(path).as_posix()}\n")
    return "".join(lines)
