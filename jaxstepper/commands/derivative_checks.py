"""Whether the derivatives of forces, which some rules see, are numbers of single precision."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxstepper.errors import require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.settings.config import Config
from jaxstepper.stepping.individual import unit_of_time


def check_derivatives(config: Config, gravity: Gravity, starts: Sequence[Particles]) -> None:
    """Refuses bodies the squares of whose second derivatives of forces overflow or vanish.

    They are those of the largest acceleration, over the unit of time of `longest_step`.

    Raises:
        UserError: they do.
    """
    limits = jnp.finfo(config.dtype)
    for start in starts:
        unit = unit_of_time(gravity, start)
        largest = float(jnp.max(jnp.linalg.norm(start.acceleration, axis=1)))
        if not (0 < unit < math.inf and largest > 0):
            continue
        square = 2 * (math.log10(largest) - 2 * math.log10(unit))
        fits = math.log10(limits.tiny) < square < math.log10(limits.max)
        require(
            fits,
            f"forces of {largest:.1g} that change within times of {unit:.1g} have derivatives whose"
            f" squares are no numbers of {config.dtype}; choose other units, or --dtype float64",
        )
