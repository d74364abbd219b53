"""The movie of a training run: the states of its first system."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.machine.processes import on_main, to_host
from jaxstepper.pictures.film import Film
from jaxstepper.pictures.movies import MovieOptions, check_movie, make_movie
from jaxstepper.training.objective import Objective


class TrainingMovie:
    """Collects the state at the end of every epoch, and makes a movie; does nothing when off.

    All processes of a run call it alike; the main process writes.

    Attributes:
        is_on: whether there will be a movie.
    """

    def __init__(
        self,
        path: Path | None,
        objective: Objective,
        state: Any,
        options: MovieOptions,
        quiet: bool = False,
    ) -> None:
        """Raises a UserError if the movie cannot be made; without a path there is none."""
        self.is_on = path is not None
        if path is None:
            return
        self._path, self._options, self._quiet = path, options, quiet
        self._objective = objective
        self._states: list[tuple] = []
        on_main(partial(check_movie, path, options))
        self.add(state)

    def add(self, state: Any) -> None:
        """Adds a state after an epoch, or at the start of a path."""
        if not self.is_on:
            return
        shown = to_host(self._objective.path(state))
        self._mass, time, dt, *rest = (np.array(each[0]) for each in shown)
        self._states.append((time, np.where(dt > 0, dt, np.nan), *rest, int(state.epoch)))

    def make(self) -> None:
        """Writes the movie."""
        if self.is_on:
            states: list[Any] = list(map(np.array, zip(*self._states, strict=True)))
            film = Film(self._mass, *states)
            on_main(partial(make_movie, film, self._path, self._options, self._quiet))
