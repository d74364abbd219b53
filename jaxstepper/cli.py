"""The command line: `jaxstepper COMMAND ...`; the scripts are its thin faces.

Nothing heavy is imported before the arguments are known to be good, so that `--help` and errors
answer at once.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxstepper import __version__
from jaxstepper.errors import UserError, one_line

COMMANDS = {
    "train": "train a network to choose time steps",
    "simulate": "simulate, with a constant or a learned time step",
    "both": "train, then simulate the result",
    "export": "write checkpoints as files for the torch simulator",
    "import": "make a run of a torch checkpoint file",
    "plot": "draw the training of a run, or a recorded rollout",
    "make-ics": "write initial conditions: Kepler pairs, Plummer spheres, three-body classics",
    "sweep": "train with choices of a TOML file, and keep the best",
    "evaluate": "compare step-size rules: force evaluations against energy error",
}


def main(command: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and leaves the process.

    Exit codes: 0 for success, 1 when training or a simulation ends badly, 2 for what the user can
    mend (one line on standard error).

    Args:
        command: the command; the first argument otherwise.
        argv: its arguments; those of the process otherwise.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            sys.exit(0)
        if arguments[0] == "--version":
            print(f"jaxstepper {__version__}")
            sys.exit(0)
        command = arguments.pop(0)
    _show_warnings_as_lines()
    try:
        sys.exit(_run(command, arguments))
    except UserError as error:
        print(one_line(f"jaxstepper {command}: error: {error}"), file=sys.stderr)
        _leave_the_others(2)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"jaxstepper {command}: interrupted", file=sys.stderr)
        _leave_the_others(130)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of standard output has left; nothing is wrong.
        sys.stderr.close()
        _leave_the_others(0)
        sys.exit(0)
    except Exception:
        if _is_one_of_several():
            traceback.print_exc()
            _leave_the_others(1)
        raise


def console() -> NoReturn:
    """The console command `jaxstepper`."""
    main()


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UserError(f"there is no such command; there are {', '.join(COMMANDS)}")
    if command in ("export", "import"):
        from jaxstepper.commands.convert import run_export, run_import

        return (run_export if command == "export" else run_import)(arguments)

    if command == "plot":
        from jaxstepper.commands.plot import run_plot

        return run_plot(arguments)

    if command == "make-ics":
        from jaxstepper.commands.make_ics import run_make_ics

        return run_make_ics(arguments)

    if command == "evaluate":
        from jaxstepper.commands.evaluate import run_evaluate

        return run_evaluate(arguments)

    if command == "sweep":
        from jaxstepper.commands.sweep import run_sweep

        return run_sweep(arguments)

    from jaxstepper.settings.command_line import parse, parse_both

    if command == "both":
        train, simulate = parse_both(arguments)
        _join(train[0])
        from jaxstepper.commands.both import run_both

        return run_both(train, simulate)
    if command == "train":
        parsed = parse("train", arguments)
        _join(parsed[0])
        from jaxstepper.commands.train import run_train

        return run_train(*parsed)
    parsed = parse("simulate", arguments)
    _join(parsed[0])
    from jaxstepper.commands.simulate import run_simulate

    return run_simulate(*parsed)


def _join(config: Any) -> None:
    from jaxstepper.runs.setup import join

    join(config)


def _leave_the_others(code: int) -> None:
    """Leaves at once if this is one of several processes; at a normal exit, it would wait for them.

    They wait for this one somewhere else, and end when it is gone.
    """
    if _is_one_of_several():
        sys.stdout.flush()
        os._exit(code)


def _is_one_of_several() -> bool:
    if "jaxstepper.machine.processes" not in sys.modules:
        return False
    from jaxstepper.machine.processes import are_several

    return are_several()


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxstepper COMMAND [FLAGS]",
            "",
            *lines,
            "",
            "jaxstepper COMMAND --help: its flags; jaxstepper --version",
        ]
    )


def _show_warnings_as_lines() -> None:
    """Warnings for users are one line, without the place in the code."""

    def line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> str:
        return f"{category.__name__}: {message}\n"

    warnings.formatwarning = line
