"""Systems of equal shapes as one batch, and one by one again.

JAX takes as long for one operation as for steps of a few bodies, so there is none for each system.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.machine.processes import to_host

Tree = TypeVar("Tree")


def stacked(systems: Sequence[Tree]) -> Tree:
    """The systems as one tree, with leaves `[B, ...]`."""

    def stack(*leaves: jax.Array | np.ndarray) -> jax.Array:
        return jnp.asarray(np.stack([np.asarray(x) for x in leaves]))

    return jax.tree.map(stack, *systems)


def unstacked(batch: Tree) -> list[Tree]:
    """The systems of a batch with leaves `[B, ...]`, on the host; all processes must call it."""
    leaves, structure = jax.tree.flatten(to_host(batch))
    # Iterated over, an array splits into all its rows at once.
    return [jax.tree.unflatten(structure, rows) for rows in zip(*leaves, strict=True)]
