"""The one exception that is meant for users."""


class UserError(Exception):
    """What the user can mend; its message is one line, shown without a traceback (exit code 2)."""


def require(condition: bool, message: str) -> None:
    """Raises a UserError with `message` unless the condition holds."""
    if not condition:
        raise UserError(message)
