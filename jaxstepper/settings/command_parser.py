"""The parser of commands that have flags of their own and no configuration file."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxstepper.errors import UserError
from jaxstepper.settings.values import PATH, Allowed, as_typed, checked


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, but leaves texts of several lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "".join(indent + line for line in text.splitlines(keepends=True))


def words_of_examples(examples: Sequence[str]) -> str:
    """Examples of command lines, as they stand below the options."""
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])


class CommandParser(argparse.ArgumentParser):
    """Raises `UserError` instead of printing the usage and leaving; takes no abbreviations.

    Every command has --quiet, and --help-all, which is --help where there is no more to tell.
    """

    def __init__(self, examples: Sequence[str] = (), **settings: Any) -> None:
        settings = {"allow_abbrev": False, "formatter_class": HelpFormatter, **settings}
        super().__init__(**settings)
        if examples:
            more = f"\n\n{self.epilog}" if self.epilog else ""
            self.epilog = words_of_examples(examples) + more
        self.add_argument("--help-all", action="help", help=argparse.SUPPRESS)
        self.add_argument("--quiet", action="store_true", help="print results and errors only")

    def take(self, *names: str, allowed: Allowed, **settings: Any) -> None:
        """Adds an argument with these allowed values."""
        self.add_argument(
            *names, **{"type": value_of(allowed), "metavar": allowed.metavar, **settings}
        )

    def error(self, message: str) -> NoReturn:
        """Raises the UserError, such as `--count 0: must be an integer >= 1; see --help`."""
        match = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
        if match is not None:
            flag, says = match[1].split("/")[-1], match[2]
            message = f"{flag} {says}" if ": must be " in says else f"{flag}: {says}"
        raise UserError(f"{message}; see --help")


def value_of(allowed: Allowed) -> Callable[[str], Any]:
    """The `type` of an argument, for argparse, that takes what is allowed."""

    def convert(text: str) -> Any:
        try:
            return checked(allowed, text, typed=True)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{as_typed(text, '-')}: {error}") from None

    return convert


def add_checkpoint_dir(parser: CommandParser) -> None:
    """Adds the flag --checkpoint-dir, as `train` has it."""
    words = "folder that holds the runs"
    parser.take("--checkpoint-dir", allowed=PATH, metavar=None, default="checkpoints", help=words)
