"""The TOML file: shared keys at the top level, tables [train], [simulate] and [sweep]."""

import tomllib
from pathlib import Path
from typing import Any

from jaxstepper.settings.config import OPTIONS, accepts, read_option
from jaxstepper.settings.option import Command
from jaxstepper.settings.sweep_space import Choice, read_choices
from jaxstepper.settings.values import line_error, nearest, refusal

Sourced = dict[str, tuple[Any, str]]
"""name -> (value, source); a source is a flag, or a file and its table."""

TABLES: tuple[Command, ...] = ("train", "simulate")
SWEEP = "sweep"
SHIPPED = Path(__file__).parents[1] / "configs"
"""The files that come with the package."""


def read_toml(path: str | None) -> dict[Command, Sourced]:
    """What the file sets for each command; checks the whole file.

    Raises:
        UserError: the file cannot be read, or a table, a key or a value is not allowed.
    """
    found: dict[Command, Sourced] = {"train": {}, "simulate": {}}
    if path is None:
        return found
    content = _load(path)
    if SWEEP in content:
        read_choices(content.pop(SWEEP), path)
    tables = {name: content.pop(name) for name in TABLES if name in content}
    for name, value in content.items():
        if isinstance(value, dict):
            raise line_error(
                f"{path} [{name}]: unknown table; allowed are [train], [simulate] and [{SWEEP}]"
            )
        checked = (_read_key(name, value, path), path)
        for command in TABLES:
            if accepts(command, name):
                found[command][name] = checked
    for command, table in tables.items():
        if not isinstance(table, dict):
            raise refusal(command, path, table, f"must be a table, [{command}]")
        source = f"{path} [{command}]"
        for name, value in table.items():
            checked = (_read_key(name, value, source), source)
            if not accepts(command, name):
                takes = OPTIONS[name].takes
                raise refusal(name, source, value, f"{command} does not take it, {takes} does")
            found[command][name] = checked
    return found


def read_sweep(path: str) -> list[Choice]:
    """The choices in the table [sweep] of the file.

    Raises:
        UserError: the file cannot be read, or has no such table, or an entry is not allowed.
    """
    content = _load(path)
    if not content.get(SWEEP):
        raise line_error(
            f"{path}: has no table [{SWEEP}] that names what to choose, such as "
            "lr = {low = 1e-4, high = 1e-2, log = true}"
        )
    return read_choices(content[SWEEP], path)


def shipped() -> list[str]:
    """The names of the files that come with the package, without their suffix."""
    return sorted(each.stem for each in SHIPPED.glob("*.toml"))


def locate(path: str) -> Path:
    """The file that `--config` means: a path, or else the name of one that comes with us."""
    name = path.removesuffix(".toml")
    return (
        SHIPPED / f"{name}.toml" if name in shipped() and not Path(path).is_file() else Path(path)
    )


def _load(path: str) -> dict[str, Any]:
    try:
        with open(locate(path), "rb") as file:
            return tomllib.loads(file.read().decode("utf-8-sig"))  # editors may write a BOM
    except OSError as error:
        reason, ours = error.strerror or str(error), shipped()
        close = nearest(Path(path).stem, ours, "")
        raise line_error(
            f"--config {path}: cannot read this file ({reason})"
            + (f"; {close}" if close else "")
            + f"; give a file, or one of {', '.join(ours)}"
        ) from None
    except ValueError as error:  # bad syntax, or not UTF-8; both say where
        raise line_error(f"--config {path}: not a TOML file: {error}") from None
    except RecursionError:
        raise line_error(f"--config {path}: nested too deeply") from None


def _read_key(name: str, value: Any, source: str) -> Any:
    if name not in OPTIONS:
        otherwise = "allowed are the long flags of --help with _ for -"
        hint = nearest(name, OPTIONS, otherwise)
        raise refusal(name, source, value, f"unknown key; {hint}")
    return read_option(name, value, source)
