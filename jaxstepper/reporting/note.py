"""Lines to users, on standard error or elsewhere."""

import os
import sys
from contextlib import suppress
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.machine.processes import is_main


def note(message: str, quiet: bool = False) -> None:
    """Prints a line on standard error."""
    if not quiet and is_main():
        put(message, sys.stderr)


def put(line: str, stream: Any) -> None:
    """Prints a line on a text stream. If it cannot be written, that ends nothing, and is told once.

    From then on the stream takes everything and keeps nothing: a part of a line may wait in it, and
    would fail again.
    """
    if stream is None:  # it was closed before Python started
        return
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError) as error:
        silence(stream)
        if stream is not sys.stderr and not isinstance(error, BrokenPipeError):
            reason = getattr(error, "strerror", None) or error
            put(f"standard output cannot be written ({reason}): its lines are lost", sys.stderr)


def result(*lines: object) -> None:
    """Prints the result of a command, at least a line, on standard output.

    Raises:
        UserError: it cannot be written.
        BrokenPipeError: its reader has left.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise UserError(
            f"standard output cannot be written ({error.strerror}); the result is lost"
        ) from error


def silence(stream: Any) -> None:
    """Discards whatever is still to be written to a stream."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
