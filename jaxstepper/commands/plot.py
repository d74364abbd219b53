"""What `plot` does: the picture of a run's training, or of a recorded rollout."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.pictures.figures import NATURAL
from jaxstepper.pictures.rollout_picture import plot_rollout
from jaxstepper.pictures.training_picture import plot_training
from jaxstepper.reporting.note import note, result
from jaxstepper.runs import folders
from jaxstepper.runs.places import check_file_place
from jaxstepper.runs.recordings import read_recording
from jaxstepper.settings.command_parser import CommandParser, add_checkpoint_dir
from jaxstepper.settings.values import PATH, integer

PICTURE = "training.png"
"""The name of the picture of a training, in the folder of its run."""

EXAMPLES = (
    "jaxstepper plot demo",
    "jaxstepper plot demo/30 --out until-epoch-30.pdf",
    "jaxstepper plot rollout.npz",
)

DIMENSIONS = {"time": 1, "dt": 1, "position": 3, "energy": 1}
"""The dimensions of a rollout's arrays."""


def run_plot(arguments: list[str]) -> int:
    """`plot RUN_OR_NPZ [--out PICTURE]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper plot",
        description="Draws the training of a run: energy errors against the band, iterations, dt "
        "and pass rates. Or a rollout that simulate --output wrote: its orbits, and dt and energy "
        "error along them.",
        examples=EXAMPLES,
    )
    parser.take(
        "what",
        allowed=PATH,
        metavar="RUN_OR_NPZ",
        help="a run's name or folder; RUN/EPOCH, for its epochs up to that one; or a rollout, "
        "FILE.npz",
    )
    words = f"a .png, .pdf or .svg; else RUN/{PICTURE} or FILE.png"
    parser.take("--out", allowed=PATH, metavar="PICTURE", help=words)
    words = "of a file of several rollouts, which to draw, counted from 0 (default: 0)"
    parser.take("--system", allowed=integer(0), metavar="K", help=words)
    add_checkpoint_dir(parser)
    options = parser.parse_args(arguments)
    file = Path(options.what)
    if file.is_file() or file.suffix in (".npz", ".h5"):
        rollout = read_rollout(options.what, options.system, options.quiet)
        path = _place(options.out, file.with_suffix(".png"))
        plot_rollout(rollout, path, file.name, *labels_of(options.what))
    else:
        if options.system is not None:
            raise UserError(f"--system {options.system}: is for a rollout, FILE.npz")
        run, name = folders.locate(options.what, options.checkpoint_dir)
        last = None if name is None else int(float(name))
        # Nothing is written beside a model that comes with the package.
        beside = Path(f"{run.name}-{PICTURE}") if folders.is_shipped(run) else run / PICTURE
        path = _place(options.out, beside)
        plot_training(run, path, last)
    result(path)
    return 0


def _place(out: str | None, otherwise: Path) -> Path:
    """Where the picture goes."""
    path = otherwise if out is None else Path(out)
    check_file_place(path, str(path) if out is None else f"--out {path}")
    return path


def read_rollout(
    path: str, system: int | None = None, quiet: bool = False
) -> dict[str, np.ndarray]:
    """The arrays of a rollout that `simulate --output` wrote.

    Of several rollouts, `system` is the one to read; None means the first, with a note.

    Raises:
        UserError: the file cannot be read, or holds no such rollout.
    """
    rollout = _read_arrays(path)
    several = rollout["time"].ndim == 2
    systems = len(rollout["time"]) if several else 1
    if system is not None and system >= systems:
        raise UserError(f"--system {system}: {path} holds {systems}, counted from 0")
    if several and {len(array) for array in rollout.values() if array.ndim} == {systems}:
        if system is None:
            words = f"{path}: holds {systems} rollouts; drawn is 0, others with --system"
            note(words, quiet=quiet)
        rollout = _without_padding({name: array[system or 0] for name, array in rollout.items()})
    states = rollout["time"].shape[:1]
    fits = all(rollout[name].ndim == ndim for name, ndim in DIMENSIONS.items())
    fits = fits and rollout["position"].shape[:1] == rollout["energy"].shape == states
    fits = fits and rollout["dt"].size + 1 == rollout["time"].size >= 2
    # A rollout may blow up, but its first state is finite.
    if not fits or not all(np.size(a) and np.all(np.isfinite(a[0])) for a in rollout.values()):
        raise UserError(f"{path}: its arrays are not those of a rollout")
    return rollout


def labels_of(path: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """The names of the bodies of a recorded rollout, and its units."""
    found = read_recording(path)
    return found.names, found.about.get("units", NATURAL)


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    arrays = read_recording(path).arrays
    return {name: arrays[name] for name in DIMENSIONS}


def _without_padding(rollout: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rollout up to its last state; a file pads all rollouts to the longest."""
    states = max(int(np.sum(np.isfinite(rollout["time"]))), 1)
    ends = {"dt": states - 1}
    return {name: array[: ends.get(name, states)] for name, array in rollout.items()}
