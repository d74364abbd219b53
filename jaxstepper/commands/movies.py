"""The movies that a config asks for."""

from pathlib import Path
from typing import Any

from jaxstepper.pictures.movies import MovieOptions
from jaxstepper.pictures.training_movie import TrainingMovie
from jaxstepper.settings.config import Config
from jaxstepper.training.objective import Objective


def movie_options(config: Config) -> MovieOptions:
    """How movies are made."""
    return MovieOptions(config.movie_max_frames, config.movie_fps, config.movie_dpi)


def movie_path(config: Config) -> Path:
    """Where the movie of a rollout goes: named like --output, and beside it unless --movie-dir."""
    output = Path(config.output or "simulation.npz")
    folder = Path(config.movie_dir) if config.movie_dir else output.parent
    return folder / f"{output.stem}.{config.movie_format}"


def open_training_movie(
    config: Config, folder: Path, objective: Objective, state: Any, is_resumed: bool
) -> TrainingMovie:
    """The movie of a training run in `folder`, or --movie-dir; off if its systems follow no path.

    A run that is resumed gets another movie, from its state on.

    Raises:
        UserError: a movie cannot be made.
    """
    path = None
    if config.movie and objective.follows_paths:
        part = f"-from-{int(state.epoch)}" if is_resumed else ""
        name = f"{config.save_name}-training{part}.{config.movie_format}"
        path = Path(config.movie_dir or folder) / name
    return TrainingMovie(path, objective, state, movie_options(config), config.quiet)
