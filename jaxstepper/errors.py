"""The one exception that is meant for users."""


class UserError(Exception):
    """What the user can mend; its message is one line, shown without a traceback (exit code 2)."""
