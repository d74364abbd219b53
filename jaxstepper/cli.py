"""The command line: `jaxstepper COMMAND ...`, also behind the scripts.

Heavy packages are imported only after the arguments have been checked, so that `--help` and errors
appear at once.
"""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO

from jaxstepper import __version__
from jaxstepper.errors import UserError, one_line

COMMANDS = {
    "train": ("train:run_train", "train a network to choose time steps"),
    "simulate": ("simulate:run_simulate", "simulate, with a constant or a learned time step"),
    "both": ("both:run_both", "train, then simulate the result"),
    "models": ("models:run_models", "list the trained models and what each is good for"),
    "export": ("convert:run_export", "write checkpoints as files for the torch simulator"),
    "import": ("convert:run_import", "make a run of a torch checkpoint file"),
    "plot": ("plot:run_plot", "draw the training of a run, or a recorded rollout"),
    "make-ics": (
        "make_ics:run_make_ics",
        "write initial conditions: Kepler pairs, Plummer spheres, three-body classics",
    ),
    "sweep": ("sweep:run_sweep", "train with choices of a TOML file, and keep the best"),
    "evaluate": (
        "evaluate:run_evaluate",
        "compare step-size rules: force evaluations against energy error",
    ),
}
"""Each command: the module in `commands` and the function that run it, and what it does."""

EXAMPLES = (
    "simulate -e 0.9 --model-path kepler --symmetrize --output orbit.npz",
    "plot orbit.npz",
    "train --config quick_start",
)


def main(command: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and leaves the process.

    Exit codes: 0 for success, 1 when training or a simulation ends badly, 2 for what the user can
    fix (one line on standard error).

    Args:
        command: the command; the first argument if None.
        argv: its arguments; those of the process if None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        command = arguments.pop(0) if arguments else "--help"
    _open_what_is_closed()
    _show_warnings_as_lines()
    try:
        try:
            code = _run(command, arguments)
        except SystemExit as left:  # the parser has printed its help
            code = int(left.code or 0)
    except UserError as error:
        _complain(f"jaxstepper {command}: error: {error}")
        code = 2
        _leave_the_others(code)
    except KeyboardInterrupt as error:
        _complain(f"jaxstepper {command}: interrupted")
        code = 128 + (error.args[0] if error.args else signal.SIGINT)
        _leave_the_others(code)
    except BrokenPipeError:
        # The reader of standard output has left; nothing is wrong.
        code = 0
        _silence(sys.stderr)
        _leave_the_others(code)
    except Exception as error:
        if isinstance(error, OSError) and _fails(sys.stdout):
            what = (
                f"standard output cannot be written ({error.strerror}); what it was to get is lost"
            )
            _complain(f"jaxstepper {command}: error: {what}")
            _leave_the_others(2)
            sys.exit(2)
        if _is_one_of_several():
            from jaxstepper.machine.processes import end_if_another_has

            end_if_another_has()
            traceback.print_exc()
            _leave_the_others(1)
        raise
    for stream in (sys.stdout, sys.stderr):
        _fails(stream)  # here, since Python would exit with code 120
    if _is_one_of_several():
        from jaxstepper.machine.processes import done

        done()
    sys.exit(code)


def console() -> NoReturn:
    """The console command `jaxstepper`."""
    main()


def _run(command: str, arguments: list[str]) -> int:
    if command in ("-h", "--help", "--help-all", "--version"):
        with suppress(OSError):  # as with the help of a command
            print(f"jaxstepper {__version__}" if command == "--version" else _usage(), flush=True)
        return 0
    if command not in COMMANDS:
        raise UserError(f"there is no such command; choose from {', '.join(COMMANDS)}")
    given: tuple[Any, ...] = (arguments,)
    if command in ("train", "simulate", "both"):
        given = _requests(command, arguments)
    module, name = COMMANDS[command][0].split(":")
    return getattr(import_module(f"jaxstepper.commands.{module}"), name)(*given)


def _requests(command: str, arguments: list[str]) -> tuple[Any, ...]:
    """What the command line asks for; joins the processes of the run before JAX is used."""
    from jaxstepper.settings.command_line import parse, parse_both

    requests: tuple[Any, ...]
    if command == "both":
        requests = parse_both(arguments)
    else:
        requests = (parse("train" if command == "train" else "simulate", arguments),)
    from jaxstepper.runs.jax_setup import join

    def say(line: str) -> None:
        _complain(f"jaxstepper {command}: {line}")

    join(requests[0].config, say)
    return requests


def _open_what_is_closed() -> None:
    """Gives standard streams that are closed a place, lest files that are opened take theirs."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _complain(line: str) -> None:
    """Prints a line on standard error, if that can be written."""
    with suppress(OSError, ValueError):
        print(one_line(line), file=sys.stderr, flush=True)


def _fails(stream: TextIO) -> bool:
    """Whether a stream cannot be written; it then discards what is left."""
    try:
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)
        return True
    return False


def _silence(stream: TextIO) -> None:
    """Discards whatever is still to be written to a stream."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave_the_others(code: int) -> None:
    """Exits at once if this is one of several processes; a normal exit would wait for them."""
    if _is_one_of_several():
        from jaxstepper.machine.processes import leave

        leave(code)


def _is_one_of_several() -> bool:
    if "jaxstepper.machine.processes" not in sys.modules:
        return False
    from jaxstepper.machine.processes import are_several

    return are_several()


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxstepper COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "examples:",
            *(f"  jaxstepper {example}" for example in EXAMPLES),
            "",
            "jaxstepper COMMAND --help: its flags and examples; jaxstepper --version",
        ]
    )


def _show_warnings_as_lines() -> None:
    """Formats warnings as one line, without the place in the code."""

    def line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
        return f"{category.__name__}: {message}\n"

    warnings.formatwarning = line


if __name__ == "__main__":
    console()
