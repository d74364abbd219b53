"""The network of pairs of bodies as a table, for steps that take a fraction of the time.

At one tolerance, what an `OrbitalRule` sees of a pair are functions of two numbers: how fast it is
compared with an escape, and the angle between its position and velocity. A table of these two,
interpolated by bicubic Hermite patches, is as smooth a rule as the network, and as reversible.
"""

from dataclasses import field, fields

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.network.learned import OrbitalRule
from jaxstepper.network.orbital_inputs import square_of_dynamical_rate
from jaxstepper.physics.pairs import Pairs, encounters
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rule import Memory, OnScheme, Rule

# Cells along y = v / sqrt(v^2 + 2 mu / r) and along the squared cosine of the angle: few enough to
# stay in cache. Steps are within 1e-3 of the network's, and within 7 % on near circles, whose
# eccentricity is not smooth in y.
CELLS = (48, 24)
# Slower pairs, as at the apocentre of an orbit of eccentricity 0.999, and faster ones count as
# these; y = 1 is infinitely fast.
SLOWEST, FASTEST = 0.02, 0.995
# From a function and its slope at both ends of a cell to the coefficients of a cubic.
HERMITE = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [-3, -2, 3, -1], [2, 1, -2, 1]], float)


def tabulated(rule: Rule) -> Rule:
    """A trained rule of pairs whose network is a table, made at the tolerance of the rule.

    Scaled, it keeps the table, and dt goes as the root of the tolerance.

    Raises:
        UserError: its network sees more than a table of two numbers holds.
    """
    if isinstance(rule, OnScheme):
        return tabulated(rule.rule).on(rule.scheme)
    if not isinstance(rule, OrbitalRule) or rule.sees_others:
        raise UserError(
            f"{type(rule).__name__} cannot be tabulated; a trained rule of feature_type orbital or "
            "eccentric can"
        )
    own = {each.name: getattr(rule, each.name) for each in fields(OrbitalRule)}
    return TabulatedRule(**own, table=_table_of(rule))


class TabulatedRule(OrbitalRule):
    """An `OrbitalRule` that looks up what its network said; made by `tabulated`.

    Attributes:
        table: `[cells, 16]`, the coefficients of each cell's bicubic patch, cells row by row.
    """

    table: ArrayLike = field(default=0.0, kw_only=True)

    def _rate_of_pairs(self, known: Memory, particles: Particles) -> Float[Array, ""]:
        pairs, rates = encounters(square_of_dynamical_rate, particles, self.softening)
        return self.together(pairs, rates, self._looked_up(pairs).astype(rates.dtype))

    def _looked_up(self, pairs: Pairs) -> Float[Array, " P"]:
        """exp(-network) of each pair."""
        square = pairs.speed_squared
        y = pairs.speed / jnp.sqrt(square + 2 * pairs.mu / pairs.distance)
        moving = square > 0
        length = pairs.distance_squared * jnp.where(moving, square, 1.0)
        cosine_squared = jnp.where(moving, pairs.r_dot_v**2 / length, 0.0)
        (i, s), (j, t) = (
            _place(x, cells)
            for x, cells in zip(
                ((y - SLOWEST) / (FASTEST - SLOWEST), cosine_squared), CELLS, strict=True
            )
        )
        c = jnp.asarray(self.table)[i * CELLS[1] + j]
        rows = [_cubic([c[:, 4 * a + b] for b in range(4)], t) for a in range(4)]
        return _cubic(rows, s)


def _place(x: Float[Array, " P"], cells: int) -> tuple[Array, Array]:
    """The cell of x in [0, 1], and the place in the cell, in [0, 1]."""
    scaled = jnp.clip(x, 0.0, 1.0) * cells
    cell = jnp.clip(scaled.astype(jnp.int32), 0, cells - 1)
    return cell, scaled - cell


def _cubic(coefficients: list[Array], x: Array) -> Array:
    c0, c1, c2, c3 = coefficients
    return c0 + x * (c1 + x * (c2 + x * c3))


def _table_of(rule: OrbitalRule) -> Float[np.ndarray, "C 16"]:
    """The patches of exp(-network) at the tolerance of the rule."""

    def factor(y: Float[Array, ""], cosine_squared: Float[Array, ""]) -> Float[Array, ""]:
        # A pair at distance 1 with a sum of masses of 1.
        square, one = 2 * y * y / (1 - y * y), jnp.ones(1)
        r_dot_v = jnp.sqrt(cosine_squared * square)
        pair = Pairs(one, one, one, r_dot_v[None], square[None], one)
        return jnp.exp(-rule.log_factor(pair, one))[0]

    span = FASTEST - SLOWEST
    across = SLOWEST + span * np.linspace(0, 1, CELLS[0] + 1)
    # The cosine has no slope at 0.
    along = np.maximum(np.linspace(0, 1, CELLS[1] + 1), 1e-9)
    size = np.array([span / CELLS[0], 1 / CELLS[1]])
    slopes = (jax.grad(factor, 0), jax.grad(factor, 1), jax.grad(jax.grad(factor, 0), 1))
    nodes = np.meshgrid(across, along, indexing="ij")
    f, fy, fc, fyc = (
        np.asarray(jax.jit(jnp.vectorize(each))(*nodes)) for each in (factor, *slopes)
    )
    at_nodes = np.array([[f, fc * size[1]], [fy * size[0], fyc * size[0] * size[1]]])
    ends = [
        [at_nodes[a, b, i : CELLS[0] + i, j : CELLS[1] + j] for j in (0, 1) for b in (0, 1)]
        for i in (0, 1)
        for a in (0, 1)
    ]
    patches = np.einsum("ka,lb,abxy->xykl", HERMITE, HERMITE, np.array(ends))
    return patches.reshape(-1, 16)
