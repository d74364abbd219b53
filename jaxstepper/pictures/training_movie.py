"""The movie of a training run: the states that its first system has accepted."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.machine.processes import on_main, to_host
from jaxstepper.pictures.film import Film
from jaxstepper.pictures.movies import check_movie, make_movie
from jaxstepper.settings.config import Config
from jaxstepper.training.objective import Objective


class TrainingMovie:
    """Keeps a state at the end of every epoch, and makes a movie of them; does nothing when off.

    Each process of a run has one and calls it alike; the main process writes.

    Attributes:
        is_on: whether there will be one: an objective may follow no path.
    """

    def __init__(
        self, config: Config, folder: Path, objective: Objective, state: Any, is_resumed: bool
    ) -> None:
        """Finds, before the training, what would stop the movie.

        Args:
            config: of the run.
            folder: of the run, which has the movie unless the config names another.
            objective: what is trained.
            state: that training starts from.
            is_resumed: whether the run goes on; the movie of that part is another file.

        Raises:
            UserError: a movie cannot be made.
        """
        self.is_on = config.movie and objective.follows_paths
        if not self.is_on:
            return
        part = f"-from-{int(state.epoch)}" if is_resumed else ""
        name = f"{config.save_name}-training{part}.{config.movie_format}"
        self._config, self._objective = config, objective
        self._path = Path(config.movie_dir or folder) / name
        self._states: list[tuple] = []
        on_main(partial(check_movie, config, self._path))
        self.add(state)

    def add(self, state: Any) -> None:
        """Keeps the state between two epochs, or at the start of a path."""
        if not self.is_on:
            return
        shown = to_host(self._objective.path(state))
        self._mass, time, dt, *rest = (np.array(each[0]) for each in shown)
        self._states.append((time, np.where(dt > 0, dt, np.nan), *rest, int(state.epoch)))

    def make(self) -> None:
        """Writes the movie."""
        if self.is_on:
            film = Film(self._mass, *map(np.array, zip(*self._states, strict=True)))
            on_main(partial(make_movie, self._config, film, self._path))
