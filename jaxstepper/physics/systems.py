"""A system of bodies as other programs hand it over: with its force and its names."""

from typing import NamedTuple

import numpy as np

from jaxstepper.errors import require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles


class System(NamedTuple):
    """Bodies, what moves them, and their names.

    Attributes:
        particles: the state.
        gravity: with the G of the other program's units.
        names: of the bodies; () if they have none.
    """

    particles: Particles
    gravity: Gravity
    names: tuple[str, ...] = ()


def three_axes(values: np.ndarray) -> np.ndarray:
    """Vectors `[N, D]` of up to three dimensions as `[N, 3]`."""
    values = np.asarray(values, np.float64)
    require(
        values.ndim == 2 and values.shape[1] <= 3, f"takes three dimensions, not {values.shape}"
    )
    return np.pad(values, ((0, 0), (0, 3 - values.shape[1])))
