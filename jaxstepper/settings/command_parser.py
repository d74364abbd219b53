"""The parser of commands that have flags of their own and no configuration file."""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from jaxstepper.errors import UserError
from jaxstepper.settings.values import MOST_OF_INTEGER, is_path


class CommandParser(argparse.ArgumentParser):
    """Raises `UserError` instead of printing the usage and leaving; takes no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raises the UserError."""
        raise UserError(f"{message}; see --help")


def count(least: int = 1) -> Callable[[str], int]:
    """The type of an integer >= `least`."""

    def convert(text: str) -> int:
        value = int(text) if text.lstrip("-").isdecimal() else least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be an integer >= {least}")
        if value > MOST_OF_INTEGER:
            raise argparse.ArgumentTypeError(f"{text!r}: must be at most {MOST_OF_INTEGER}")
        return value

    return convert


def place(text: str) -> str:
    """The type of a path."""
    if not is_path(text):
        raise argparse.ArgumentTypeError("must be a path, printable and not too long")
    return text


def number(text: str) -> float:
    """The type of a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a finite number")
    return value


def positive(text: str) -> float:
    """The type of a finite number > 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number > 0")
    return value
