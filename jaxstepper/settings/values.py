"""The values that options may have, and the errors for others (standard library only)."""

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from jaxstepper.errors import UserError, one_line

MOST_OF_INTEGER = 2**31 - 1  # JAX counts in 32 bits
# Bytes that common file systems take, less some for what is added to the name of a run.
MOST_OF_PATH, MOST_OF_NAME = 3900, 230


@dataclass(frozen=True)
class Allowed:
    """The values that an option may have.

    Attributes:
        kind: the type of a value.
        words: what a value must be, for messages.
        metavar: what `--help` shows for a value.
        test: whether a value of that type is allowed.
        many: whether the option takes several values.
        most: the largest integer allowed.
        refused: well-known names that are not allowed, and why.
    """

    kind: type
    words: str
    metavar: str = ""
    test: Callable[[Any], bool] = lambda value: True
    many: bool = False
    most: int = MOST_OF_INTEGER
    refused: Mapping[str, str] = field(default_factory=dict)


def _bounded(
    kind: type, noun: str, low: float | None, above: float | None, below: float | None
) -> Allowed:
    def test(value: float) -> bool:
        return (
            math.isfinite(value)
            and (low is None or value >= low)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    if below is not None:
        words = f"{noun} in [{low}, {below})"
    elif above is not None:
        words = f"{noun} > {above}"
    elif low is not None:
        words = f"{noun} >= {low}"
    else:
        words = noun
    return Allowed(kind, words, "N" if kind is int else "X", test)


def integer(low: int | None = None, below: int | None = None) -> Allowed:
    """An integer with `low` <= value < `below`."""
    allowed = _bounded(int, "an integer", low, None, below)
    return allowed if below is None else replace(allowed, most=below)


def number(
    low: float | None = None, above: float | None = None, below: float | None = None
) -> Allowed:
    """A finite number with `low` <= value, `above` < value, value < `below`."""
    noun = "a finite number" if low is None and above is None else "a number"
    return _bounded(float, noun, low, above, below)


def one_of(*names: str, refused: Mapping[str, str] | None = None) -> Allowed:
    """One of `names`; `refused` explains why well-known others are not allowed."""
    words = f"one of {', '.join(names)}"
    braces = "{" + ",".join(names) + "}"
    return Allowed(str, words, braces, names.__contains__, refused=refused or {})


def text(metavar: str) -> Allowed:
    """Printable text that is not empty."""

    def test(value: str) -> bool:
        return bool(value.strip()) and value.isprintable()

    return Allowed(str, "a printable text, not empty", metavar, test)


def is_path(value: str) -> bool:
    """Whether a text is a printable path that is not too long for common file systems."""
    parts = PurePath(value).parts
    short = len(value) <= MOST_OF_PATH and all(len(os.fsencode(p)) <= MOST_OF_NAME for p in parts)
    return bool(value.strip()) and value.isprintable() and short


def _is_run_name(value: str) -> bool:
    # The name becomes a folder below the checkpoint directory and must not leave it.
    path = PurePath(value)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and is_path(value)


def path(
    metavar: str, words: str = "a path, printable and not too long", suffix: str | tuple = ""
) -> Allowed:
    """A path that ends with `suffix`; it need not exist."""
    return Allowed(str, words, metavar, lambda value: is_path(value) and value.endswith(suffix))


ADDRESS = Allowed(
    str, "HOST:PORT", "HOST:PORT", lambda value: bool(re.fullmatch(r"\S+:\d{1,5}", value))
)
YES_NO = Allowed(bool, "true or false")
FRACTION = number(low=0, below=1)
FINITE = number()
POSITIVE = number(above=0)
NOT_NEGATIVE = number(low=0)
COUNT = integer(1)
DURATION = replace(NOT_NEGATIVE, words="a number >= 0; with --backwards, time runs backwards")
TIMES = Allowed(
    float,
    "finite numbers, each larger than the one before",
    "T",
    lambda value: (
        bool(value) and all(map(math.isfinite, value)) and all(a < b for a, b in pairwise(value))
    ),
    many=True,
)
SYSTEMS_OF_UNITS = ("si", "cgs")
UNITS = Allowed(
    str,
    "a length, a time or a speed, and a mass, such as au yr Msun; or si",
    "UNIT",
    lambda value: (
        all(each.strip() and each.isprintable() for each in value)
        and (len(value) == 3 or (len(value) == 1 and value[0].lower() in SYSTEMS_OF_UNITS))
    ),
    many=True,
)
RECORDING = path("PATH", "a path that ends in .npz or .h5", suffix=(".npz", ".h5"))
PATH = path("PATH")
RUN_NAME = Allowed(str, 'a relative name, not empty, without ".."', "NAME", _is_run_name)
WIDTHS = Allowed(
    int,
    "one or more integers >= 1",
    "N",
    lambda value: bool(value) and all(width >= 1 for width in value),
    many=True,
)
POSITION = Allowed(
    float,
    "finite numbers, one for each of the dim dimensions",
    "X",
    lambda value: bool(value) and all(map(math.isfinite, value)),
    many=True,
)
EVEN = Allowed(
    int, "an even integer >= 2", "N", lambda value: bool(value >= 2) and not bool(value % 2)
)
OPTIMIZERS = one_of(
    "adam",
    "adamw",
    "sgd",
    refused={
        "lbfgs": "the line search and curvature pairs of lbfgs need one fixed objective, while "
        "here every attempt trains on another state and dropout mask"
    },
)
STEP_SIZE = Allowed(
    float,
    "a number > 0, or -1 for the default",
    "X",
    lambda value: math.isfinite(value) and (value > 0 or value == -1),
)
STEP_COUNT = Allowed(
    int, "an integer >= 1, or -1 for the default", "N", lambda value: value >= 1 or value == -1
)


def line_error(message: str) -> UserError:
    """An error whose message quotes what users typed; escapes line breaks."""
    return UserError(one_line(message))


def as_typed(value: Any, source: str) -> str:
    """`value` as it would be typed at `source`, shortened."""
    if not source.startswith("-"):
        shown = json.dumps(value, default=str, ensure_ascii=False)
    elif isinstance(value, list | tuple):
        shown = " ".join(map(str, value))
    else:
        shown = str(value)
    shown = shown if shown.strip() else repr(shown)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def refusal(name: str, source: str, value: Any, rule: str) -> UserError:
    """The error for one value: `--epochs -3: ...` or `my.toml [train] epochs = -3: ...`."""
    return line_error(f"{setting(name, source, value)}: {rule}")


def setting(name: str, source: str, value: Any) -> str:
    """A value and where it was set: `--epochs -3`, `--movie` or `my.toml [train] epochs = -3`."""
    if isinstance(value, bool) and source.startswith("--"):
        return source if value else f"--no-{source[2:]}"
    shown = as_typed(value, source)
    return f"{source} {shown}" if source.startswith("-") else f"{source} {name} = {shown}"


def nearest(word: str, known: Collection[str], otherwise: str) -> str:
    """`did you mean ...?`, or `otherwise` if no known word is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


def _from_plain(kind: type, value: Any) -> Any:
    """A TOML or JSON value as `kind`; raises ValueError if it is of another kind."""
    if kind is float and type(value) is int:  # type(): True is an int to isinstance
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value


def checked(allowed: Allowed, raw: Any, typed: bool) -> Any:
    """The value of `raw`, a TOML or JSON value or, if `typed`, text of a command line.

    Raises:
        ValueError: it is of the wrong kind or not allowed; the message says what it must be.
    """
    convert = allowed.kind if typed else partial(_from_plain, allowed.kind)
    why = allowed.refused.get(raw, "") if isinstance(raw, str) else ""
    try:
        if allowed.many and not isinstance(raw, list | tuple):
            raise ValueError
        value = tuple(map(convert, raw)) if allowed.many else convert(raw)
        fine = allowed.test(value)
    except (ValueError, OverflowError):
        fine = False
    if not fine:
        raise ValueError(f"must be {allowed.words}" + (f"; {why}" if why else ""))
    if allowed.kind is int and max(value if allowed.many else (value,)) > allowed.most:
        raise ValueError(f"must be at most {allowed.most}")
    return value


def read_value(allowed: Allowed, name: str, raw: Any, source: str) -> Any:
    """The checked value of the option `name`, from flag text or from a TOML or JSON value.

    Raises:
        UserError: `raw` is of the wrong kind or not allowed.
    """
    try:
        return checked(allowed, raw, source.startswith("-") and allowed.kind is not bool)
    except ValueError as error:
        raise refusal(name, source, raw, str(error)) from None
