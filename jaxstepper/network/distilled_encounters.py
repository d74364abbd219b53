"""The network of encounters as a polynomial, whose steps take little time.

At one tolerance, what the network sees of an encounter are functions of four numbers that lie
between 0 and 1. A polynomial of third degree in these, fitted where bodies meet in star clusters,
is within some four per cent of the network.
"""

import itertools
import math
from dataclasses import field, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxstepper.network.learned import OrbitalRule
from jaxstepper.network.orbital_inputs import shares, softened_and_share
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.physics.pairs import Pairs, fastest_encounters
from jaxstepper.physics.particles import from_table

DEGREE = 3
POWERS = [e for e in itertools.product(range(DEGREE + 1), repeat=4) if sum(e) <= DEGREE]
# Where it is fitted: the fastest bodies of Plummer spheres in Henon units, with some softenings, in
# equilibrium, colder and hotter.
SPHERES, BODIES, FASTEST = 64, 48, 8
SOFTENINGS, SPEEDS = (0.0, 0.003, 0.01, 0.03), (1.0, 1.0, 0.5, 1.3)


class DistilledEncounters(OrbitalRule):
    """An `OrbitalRule` of encounters with a polynomial in place of its network; from `distilled`.

    Attributes:
        coefficients: `[M]`, of log(dt) in the order of `POWERS`.
        least, most: of the polynomial where it was fitted, which hold elsewhere, too.
    """

    coefficients: ArrayLike = field(default=0.0, kw_only=True)
    least: ArrayLike = field(default=0.0, kw_only=True)
    most: ArrayLike = field(default=0.0, kw_only=True)

    def log_factor(self, pairs: Pairs, rates: Float[Array, " P"]) -> Float[Array, " P"]:
        terms = _terms(_four(pairs, rates, self.softening))
        said = sum(c * each for c, each in zip(jnp.asarray(self.coefficients), terms, strict=True))
        return jnp.clip(said, self.least, self.most)


def distilled_encounters(rule: OrbitalRule) -> DistilledEncounters:
    """The rule with a polynomial in place of its network, at its tolerance."""
    numbers, said = _encounters(rule)
    terms = np.stack(_terms(numbers), axis=-1).astype(float)
    # Slow encounters add little to the sum of the fourth powers of rates.
    share = np.sqrt(numbers[3])
    found = np.linalg.lstsq(terms * share[:, None], said * share, rcond=None)[0]
    own = {each.name: getattr(rule, each.name) for each in fields(OrbitalRule)}
    limits = {"least": said.min(), "most": said.max()}
    return DistilledEncounters(**own, coefficients=found, **limits)


def _four(pairs: Pairs, rates: Float[Array, " P"], softening: Array | float) -> Float[Array, "4 P"]:
    """v^2 / (v^2 + 2 mu / r), the part of it along r, (softening / r)^2, and the share of all."""
    softened, share = softened_and_share(pairs, rates, softening)
    return jnp.stack([*shares(pairs, pairs.distance), softened, share**2])


def _terms(numbers: Float[Array, "4 P"]) -> list[Float[Array, " P"]]:
    one = jnp.ones_like(numbers[0])
    powers = [[one, x, x * x, x * x * x] for x in numbers]
    return [math.prod(powers[i][k] for i, k in enumerate(e) if k) * one for e in POWERS]


def _encounters(rule: OrbitalRule) -> tuple[Float[Array, "4 S"], Float[np.ndarray, " S"]]:
    """The numbers `[4, S]` of encounters in spheres, and what the network says of them."""
    spheres = np.stack([plummer(seed, BODIES) for seed in range(SPHERES)])
    spheres[..., 4:] *= np.resize(SPEEDS, (SPHERES, 1, 1))

    def seen(table: Float[Array, "N C"], softening: Float[Array, ""]) -> tuple[Array, Array]:
        particles = from_table(table, Gravity().acceleration, table.dtype)
        pairs, rates = fastest_encounters(particles, softening, FASTEST)
        said = replace(rule, softening=softening).log_factor(pairs, rates)
        return _four(pairs, rates, softening), said

    of_all = jax.jit(jax.vmap(jax.vmap(seen, (None, 0)), (0, None)))
    numbers, said = of_all(jnp.asarray(spheres), jnp.asarray(SOFTENINGS))
    return jnp.moveaxis(numbers, 2, 0).reshape(4, -1), np.ravel(said)
