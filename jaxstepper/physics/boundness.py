"""Whether bodies hold together."""

import numpy as np

from jaxstepper.physics.tables import Table

# The pairs of more are not looked at.
MOST_BODIES = 3000


def is_unbound(table: Table, softening: float, G: float = 1.0) -> bool:
    """Whether no two bodies are bound to each other, and neither are all of them together.

    Args:
        table: `[N, 1 + 2 D]`.
        softening: of the force.
        G: the gravitational constant, in the units of the table.

    Returns:
        False for one body, and for more than `MOST_BODIES`, which are not looked at.
    """
    count, columns = table.shape
    if not 2 <= count <= MOST_BODIES:
        return False
    dim = (columns - 1) // 2
    mass, x, v = G * table[:, 0], table[:, 1 : 1 + dim], table[:, 1 + dim :]
    potential = 0.0
    for i in range(count - 1):
        apart = np.sqrt(np.sum((x[i + 1 :] - x[i]) ** 2, axis=1) + softening**2)
        squared = np.sum((v[i + 1 :] - v[i]) ** 2, axis=1)
        if np.any(0.5 * squared * apart < mass[i + 1 :] + mass[i]):
            return False
        potential -= mass[i] * float(np.sum(mass[i + 1 :] / apart))
    mean = mass @ v / np.sum(mass)
    kinetic = 0.5 * float(mass @ np.sum((v - mean) ** 2, axis=1))
    return bool(kinetic + potential > 0)
