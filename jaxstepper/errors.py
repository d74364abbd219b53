"""The one exception that is meant for users, and how its message becomes a line."""


class UserError(Exception):
    """What the user can mend; its message is one line, shown without a traceback (exit code 2)."""


def one_line(message: str) -> str:
    """The message with its line breaks escaped: whatever users typed may hold some."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)


def require(condition: bool, message: str) -> None:
    """Raises a UserError with `message` unless the condition holds."""
    if not condition:
        raise UserError(message)
