"""Writes movies: an mp4 through ffmpeg, or a gif."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.pictures.figures import evenly, new_figure
from jaxstepper.pictures.film import Film
from jaxstepper.pictures.scene import WIDTH, Scene
from jaxstepper.reporting.note import note
from jaxstepper.runs.places import check_file_place

# The widest frames, and the most of them per second, that players take.
MOST_DOTS, MOST_FPS = 16384, 1000


@dataclass(frozen=True)
class MovieOptions:
    """How a movie is made.

    Attributes:
        max_frames: the most frames; longer films are thinned evenly.
        fps: frames per second.
        dpi: dots per inch.
    """

    max_frames: int = 1000
    fps: int = 30
    dpi: int = 120


def check_movie(path: Path, options: MovieOptions) -> None:
    """Checks that a movie can be made, before the work that it will show.

    Raises:
        UserError: a package is missing, the frames are too large or too fast, or the file cannot be
            written.
    """
    new_figure(WIDTH, WIDTH)
    if path.suffix == ".mp4":
        _ffmpeg()
    for name, value, most in (
        ("--movie-dpi", options.dpi, int(MOST_DOTS / WIDTH)),
        ("--movie-fps", options.fps, MOST_FPS),
    ):
        if value > most:
            raise UserError(f"{name} {value}: must be <= {most}, for players to take it")
    check_file_place(path, f"--movie: {path}")


def make_movie(film: Film, path: Path, options: MovieOptions, quiet: bool = False) -> None:
    """Writes a movie, an .mp4 or a .gif, and says where. The file appears when it is complete.

    Raises:
        UserError: a package is missing, or the movie cannot be written.
    """
    shown = evenly(len(film.time), options.max_frames)
    frames = Scene(film, len(shown)).draw(shown, options.dpi)
    beside = path.with_name(f".{path.name}")
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(frames, beside, options.fps)
        beside.replace(path)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: the movie cannot be written ({problem})") from problem
    finally:
        beside.unlink(missing_ok=True)
    note(f"movie of {len(shown)} frames in {path}", quiet=quiet)


def _ffmpeg() -> str:
    """The path of the ffmpeg program."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "--movie: an mp4 needs imageio-ffmpeg: pip install 'jaxstepper[plot]'; or use "
            "--movie-format gif"
        ) from error


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: int) -> None:
    first = next(frames)
    height, width, _ = first.shape
    # imageio-ffmpeg's own writer forks, which is unsafe with JAX's threads.
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command = [_ffmpeg(), "-loglevel", "error", "-y", *raw, "-i", "-", *even, f"file:{path}"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin and process.stderr
        with contextlib.suppress(BrokenPipeError):  # ffmpeg says why below
            for frame in itertools.chain([first], frames):
                process.stdin.write(frame.tobytes())
            process.stdin.close()
        said = process.stderr.read().decode(errors="replace").split("\n")[0]
    if process.returncode:
        raise OSError(said or f"ffmpeg ended with {process.returncode}")


def _write_gif(frames: Iterator[np.ndarray], path: Path, fps: int) -> None:
    from PIL import Image

    images = (Image.fromarray(frame).quantize() for frame in frames)
    more: dict[str, Any] = {"save_all": True, "append_images": images, "loop": 0}
    next(images).save(path, duration=1000 / fps, **more)
