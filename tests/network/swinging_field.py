"""A field that swings as cos(3 t), for the tests of learned rules over pairs."""

import jax.numpy as jnp
import numpy as np

from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rollout import Limits, run_until
from jaxstepper.stepping.status import ENDED

FIELD = ExternalField(lambda x, t: jnp.cos(3 * t) + 0 * x, lambda x, t: jnp.zeros(len(x)))
# A body of mass 1e-6, and massless ones.
MASSES = [[1e-6], [0.0], [0.0, 0.0]]


def assert_it_follows_the_field(rule, masses):
    """Bodies without a pull on each other move as the field says, in a fair number of steps."""
    gravity = Gravity(external=FIELD)
    table = np.array([[mass, k, 0, 0, 1] for k, mass in enumerate(masses)])
    end = run_until(rule, gravity, from_table(table, gravity.acceleration), Limits(2.0))
    assert int(end.status) == ENDED
    assert 20 < int(end.steps) < 200
    moved = np.asarray(end.particles.position[0])
    np.testing.assert_allclose(moved, [*(1 - np.cos(6.0)) / 9 + [0, 2]], atol=1e-4)
