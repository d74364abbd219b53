"""Notes to users on standard error."""

import sys

from jaxstepper.machine.processes import is_main


def note(message: str, quiet: bool = False) -> None:
    """Prints a line on standard error."""
    if not quiet and is_main():
        print(message, file=sys.stderr, flush=True)
