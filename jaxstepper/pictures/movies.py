"""Movies as files: whether one can be made, and its frames through ffmpeg or into a gif."""

import contextlib
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.pictures.figures import evenly, new_figure
from jaxstepper.pictures.film import Film
from jaxstepper.pictures.scene import WIDTH, Scene
from jaxstepper.reporting.note import note
from jaxstepper.runs.places import check_file_place
from jaxstepper.settings.config import Config

# Of a frame's width, and frames per second, that players take.
MOST_DOTS, MOST_FPS = 16384, 1000


def check_movie(config: Config, path: Path) -> None:
    """Checks, before the work that it is to show, that a movie can be made.

    Raises:
        UserError: a package is missing, frames are too large or fast, or the file cannot be
            written.
    """
    new_figure(WIDTH, WIDTH)
    if path.suffix == ".mp4":
        _ffmpeg()
    for name, value, most in (
        ("--movie-dpi", config.movie_dpi, int(MOST_DOTS / WIDTH)),
        ("--movie-fps", config.movie_fps, MOST_FPS),
    ):
        if value > most:
            raise UserError(f"{name} {value}: must be <= {most}, for players to take it")
    check_file_place(path, f"--movie: {path}")


def make_movie(config: Config, film: Film, path: Path) -> None:
    """Writes a movie as the config asks for it, and says where.

    Of longer films, states are taken evenly. The file appears when it is whole.

    Args:
        config: how many frames at most, how many a second, and how fine.
        film: what is shown.
        path: of the movie; its suffix, .mp4 or .gif, chooses the format.

    Raises:
        UserError: a package is missing, or the movie cannot be written.
    """
    shown = evenly(len(film.time), config.movie_max_frames)
    frames = Scene(film, len(shown)).draw(shown, config.movie_dpi)
    beside = path.with_name(f".{path.name}")
    write = _write_gif if path.suffix == ".gif" else _write_mp4
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(frames, beside, config.movie_fps)
        beside.replace(path)
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: the movie cannot be written ({problem})") from problem
    finally:
        beside.unlink(missing_ok=True)
    note(f"movie of {len(shown)} frames in {path}", quiet=config.quiet)


def _ffmpeg() -> str:
    """The path of the program."""
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
    # imageio-ffmpeg's own writer forks, which JAX's threads forbid.
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
    command = [_ffmpeg(), "-loglevel", "error", "-y", *raw, "-i", "-", *even, f"file:{path}"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin and process.stderr
        with contextlib.suppress(BrokenPipeError):  # it says why below
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
