"""Whether the accelerations and their derivatives, which some rules see, are numbers."""

import math
from collections.abc import Sequence

import numpy as np

from jaxstepper.errors import require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.settings.config import PAIRS, Config
from jaxstepper.stepping.individual import unit_of_time

OF_ACCELERATIONS = ("acceleration", "distance-over-acceleration")


def check_derivatives(config: Config, gravity: Gravity, starts: Sequence[Particles]) -> None:
    """Refuses bodies the squares of whose accelerations, or derivatives of these, are no numbers.

    The derivatives are the second ones, which rules with inputs of derivatives see; they are judged
    by the largest acceleration and the unit of time of `unit_of_time`.

    Raises:
        UserError: they overflow or vanish.
    """
    limits, order = np.finfo(config.dtype), 2
    if not (config.individual or config.feature_type == PAIRS):
        if config.controller not in OF_ACCELERATIONS:
            return
        order = 0
    for start in starts:
        unit = unit_of_time(gravity, start)
        largest = np.linalg.norm(np.asarray(start.acceleration, np.float64), axis=1).max()
        if not (0 < unit < math.inf and largest > 0):
            continue
        square = 2 * (math.log10(largest) - order * math.log10(unit))
        fits = math.log10(limits.tiny) < square < math.log10(limits.max)
        require(
            fits,
            f"accelerations of {largest:.1g} that change within times of {unit:.1g} are too small"
            f" or large for this rule in {config.dtype}; choose other units, or --dtype float64",
        )
