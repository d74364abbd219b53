"""How values of many pairs become one."""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Reduction(NamedTuple):
    """How values of many pairs become one."""

    reduce: Callable[..., Array]
    combine: Callable[[Array, Array], Array]
    neutral: float


MINIMUM = Reduction(jnp.min, jnp.minimum, np.inf)
MAXIMUM = Reduction(jnp.max, jnp.maximum, 0.0)  # of what is positive
SUM = Reduction(jnp.sum, operator.add, 0.0)


class Falls(NamedTuple):
    """What a pass for forces finds out on the way: how fast each body's pairs fall together.

    Attributes:
        of_square: of mu / d^3, the square of a pair's rate of free fall.
        over: how the values of a body's pairs become one.
    """

    of_square: Callable[[Array], Array]
    over: Reduction


LARGEST_SQUARE = Falls(lambda square: square, MAXIMUM)
SUM_OF_FOURTH_POWERS = Falls(jnp.square, SUM)
