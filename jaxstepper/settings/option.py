"""How an option is declared (standard library only)."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxstepper.settings.values import Allowed

Command = Literal["train", "simulate", "both"]


@dataclass(frozen=True)
class Option:
    """The properties of an option, except its default.

    Attributes:
        allowed: the values that it may have.
        help: its text in `--help`.
        group: its heading in `--help`.
        takes: the command that takes it, or "both".
        also: a second spelling of its flag.
        flag: whether it has a flag; otherwise only a TOML file can set it.
        effect: whether it has one; otherwise it is accepted for old command lines.
        objective: the one objective that it matters to; "" if it matters to all.
    """

    allowed: Allowed
    help: str
    group: str
    takes: Command
    also: str | None
    flag: bool
    effect: bool
    objective: str


def option(
    default: Any,
    allowed: Allowed,
    help: str,
    *,
    group: str,
    takes: Command = "both",
    also: str | None = None,
    flag: bool = True,
    effect: bool = True,
    objective: str = "",
) -> Any:
    """Declares one field of `Config`."""
    declared = Option(allowed, help, group, takes, also, flag, effect, objective)
    return field(default=default, metadata={"option": declared})
