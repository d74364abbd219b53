"""The one exception that is meant for users, and how its message becomes a line."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What the user can mend; its message is one line, shown without a traceback (exit code 2)."""


def one_line(message: str) -> str:
    """The message with its line breaks escaped: whatever users typed may hold some."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def require(condition: bool, message: str) -> None:
    """Raises a UserError with `message` unless the condition holds."""
    if not condition:
        raise UserError(message)


@contextmanager
def needing(message: str) -> Iterator[None]:
    """Raises a UserError with `message`, on how to get a package, where an import fails."""
    try:
        yield
    except ImportError as error:
        raise UserError(message) from error
