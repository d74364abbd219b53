"""Refuses work that the memory or disk of this machine has no room for."""

import os
import shutil
from pathlib import Path

from jaxstepper.errors import UserError

GIGABYTE = 1e9


def physical_memory() -> float:
    """The bytes of memory in this machine; infinite if unknown."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def require_memory(num_bytes: float, what: str) -> None:
    """Raises a UserError that begins with `what` if the machine has less memory."""
    present = physical_memory()
    if num_bytes > present:
        raise UserError(
            f"{what}: needs more than {num_bytes / GIGABYTE:,.0f} GB of memory, and this machine "
            f"has {present / GIGABYTE:,.0f} GB; choose less"
        )


def require_disk(num_bytes: float, path: Path, what: str) -> None:
    """Raises a UserError that begins with `what` if the disk of `path` has less room."""
    folder = next(each for each in path.absolute().parents if each.is_dir())
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"{what}: needs more than the {free / GIGABYTE:,.1f} GB that are free in {folder}; "
            "choose less, or another disk"
        )
