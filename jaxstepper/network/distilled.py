"""Polynomials in the place of a network, whose steps take little time: ratios of two for pairs.

At one tolerance, what an `OrbitalRule` sees of a pair are functions of two numbers, the shares u
and w. On the way of a pair the ratio is mostly within some per cent of the network, on schemes of
fourth order some 3 % but for a factor of each orbit's own, and it is as smooth and as reversible.
"""

from dataclasses import field, fields

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxstepper.errors import UserError, require
from jaxstepper.network.distilled_encounters import distilled_encounters
from jaxstepper.network.learned import OrbitalRule, root
from jaxstepper.network.orbital_inputs import UNBOUND, shares, square_of_dynamical_rate
from jaxstepper.network.polynomial import polynomial, powers
from jaxstepper.physics.pairs import Pairs, encounters, rate_of_all
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rule import Memory, OnScheme, Rule

# On schemes of second order and of higher ones: the degrees of the polynomials above and below, and
# how much it counts that all steps of an orbit are off by one factor, compared with one that
# differs along the orbit. Such steps are as good, for another error. On schemes of higher order a
# per cent more or less along an orbit can be worth 20 % of the evaluations.
Fit = tuple[tuple[int, int], float]
OF_SECOND_ORDER: Fit = (3, 3), 1.0
OF_HIGHER_ORDER: Fit = (2, 6), 0.2
# Orbits that the ratio is fitted on, and places on each.
ECCENTRICITIES = np.concatenate([np.linspace(0.01, 0.9, 30), 1 - np.geomspace(0.09, 1e-3, 15)])
PLACES = 100
# Keeps coefficients small, for single precision: those of kepler_bm4 up to six times.
RIDGE = 1e-5
# Polynomials below count as this while they are fitted, since their logarithms are compared.
SMALLEST = 1e-3


def distilled(rule: Rule) -> Rule:
    """A trained rule with polynomials in the place of its network, at the rule's tolerance.

    Scaled, it keeps them, and dt goes as the root of the tolerance.

    Raises:
        UserError: its network has other inputs, or no ratio of this degree is like that of pairs.
    """
    if isinstance(rule, OnScheme):
        return distilled(rule.rule).on(rule.scheme)
    if not isinstance(rule, OrbitalRule):
        raise UserError(
            f"{type(rule).__name__} cannot be distilled; a trained rule of feature_type orbital, "
            "eccentric or encounters can"
        )
    if rule.sees_others:
        return distilled_encounters(rule)
    own = {each.name: getattr(rule, each.name) for each in fields(OrbitalRule)}
    return DistilledRule(**own, ratio=_ratio_of(rule))


class DistilledRule(OrbitalRule):
    """An `OrbitalRule` that divides polynomials in place of its network; made by `distilled`.

    Attributes:
        ratio: `[M]`, the coefficients of the polynomial above, then of that below, in the order of
            `powers`; the first of those below is 1. Their ratio is exp(-network), the rate of a
            pair in units of the dynamical one, and with `for_any_e` of that over
            |1 - 2 u|^(1/p), its `binding`.
    """

    ratio: ArrayLike = field(default=0.0, kw_only=True)

    def _rate_of_pairs(self, known: Memory, particles: Particles) -> Float[Array, ""]:
        # Two bodies are one pair, whatever its rate.
        square = square_of_dynamical_rate if particles.mass.shape[0] > 2 else _any_rate
        pairs, rates = encounters(square, particles, self.softening)
        (u, w), dynamical = shares(pairs, pairs.distance), _square_of_rate(pairs)
        # The networks were trained on bound pairs.
        seen = jnp.minimum(u, 0.5), jnp.minimum(w, 0.5)
        above, below = (
            polynomial(list(each), *seen, degree)
            for each, degree in _parts(self, jnp.asarray(self.ratio, u.dtype))
        )
        own = jnp.sqrt(dynamical / _unit(self, u)) * (above / below)
        own = jnp.where(rates > 0, own, 0.0)
        return jnp.where(jnp.any(jnp.isinf(rates)), jnp.inf, rate_of_all(own))


def _fit_of(rule: OrbitalRule) -> Fit:
    return OF_SECOND_ORDER if rule.order == 2 else OF_HIGHER_ORDER


def _parts(
    rule: OrbitalRule, ratio: Float[Array | np.ndarray, " M"]
) -> list[tuple[Array | np.ndarray, int]]:
    """The coefficients above and those below, and their degrees."""
    (above, below), _ = _fit_of(rule)
    count = len(powers(above))
    return [(ratio[:count], above), (ratio[count:], below)]


def _unit(rule: OrbitalRule, u: Float[Array, "*P"]) -> Float[Array, "*P"] | float:
    """The square of the unit of time, in dynamical times: a root of `binding`, if it counts."""
    if not rule.for_any_e:
        return 1.0
    return root(jnp.maximum(jnp.abs(1 - 2 * u), UNBOUND), rule.order // 2)


def _any_rate(pairs: Pairs) -> Float[Array, "*P"]:
    return jnp.ones_like(pairs.mu)


def _square_of_rate(pairs: Pairs) -> Float[Array, "*P"]:
    """`square_of_dynamical_rate` in terms of what `shares` computes, which takes less time."""
    square = pairs.distance_squared
    inverse = 1 / jnp.where(square > 0, square, 1.0)
    return (square * pairs.speed_squared + pairs.mu * pairs.distance) * inverse * inverse


def _ratio_of(rule: OrbitalRule) -> Float[np.ndarray, " M"]:
    """The ratio whose logarithm has the least mean square distance from the network's on orbits."""
    # It takes longer to import than all else that a command needs.
    from scipy.optimize import least_squares

    pairs, weight = _orbits()
    u, w, factor = _shares_and_factor(rule, pairs)
    target = np.log(np.asarray(factor, float))
    degrees, of_level = _fit_of(rule)
    above, below = (_terms(u, w, degree) for degree in degrees)
    count = above.shape[1]

    def values(numbers: Float[np.ndarray, " V"]) -> tuple[np.ndarray, np.ndarray]:
        # The constant below is 1.
        both = above @ numbers[:count], 1 + below[:, 1:] @ numbers[count:]
        return np.maximum(both[0], SMALLEST), np.maximum(both[1], SMALLEST)

    def distance(numbers: Float[np.ndarray, " V"], of_level: float) -> Float[np.ndarray, " P"]:
        a, b = values(numbers)
        return np.append(_weighed(np.log(a / b) - target, weight, of_level), RIDGE * numbers)

    def slope(numbers: Float[np.ndarray, " V"], of_level: float) -> Float[np.ndarray, "P V"]:
        a, b = values(numbers)
        each = np.concatenate([above / a[:, None], -below[:, 1:] / b[:, None]], axis=1)
        each = _weighed(each, weight, of_level)
        return np.concatenate([each, RIDGE * np.eye(len(numbers))])

    numbers = np.zeros(count + below.shape[1] - 1)
    numbers[0] = np.exp(np.average(target, weights=weight**2))
    # From afar, levels show the way; without them the search may end in a ditch.
    for each in (1.0, of_level):
        numbers = least_squares(distance, numbers, slope, args=(each,)).x
    ratio = np.insert(numbers, count, 1.0)
    require(
        all(np.all(_terms(*_triangle(), d) @ each > 0) for each, d in _parts(rule, ratio)),
        "no ratio of polynomials is like this network of pairs; use it as it is",
    )
    return ratio


def _weighed(
    off: Float[np.ndarray, "P *V"], weight: Float[np.ndarray, " P"], of_level: float
) -> Float[np.ndarray, "P *V"]:
    """Logarithms times their weights, with less of what is the same all around an orbit."""
    each, of = off.reshape(PLACES, -1, *off.shape[1:]), weight.reshape(PLACES, -1)
    of = of.reshape(of.shape + (1,) * (off.ndim - 1))
    level = np.sum(of**2 * each, axis=0) / np.sum(of**2, axis=0)
    return (of * (each - (1 - of_level) * level)).reshape(off.shape)


@jax.jit
def _shares_and_factor(rule: OrbitalRule, pairs: Pairs) -> tuple[Array, Array, Array]:
    """Both shares of pairs, and what the ratio is to be there."""
    (u, w), dynamical = shares(pairs, pairs.distance), square_of_dynamical_rate(pairs)
    rates = jnp.sqrt(dynamical)
    factor = rule.rates_of(pairs, rates) / rates * jnp.exp(-rule.log_factor(pairs, rates))
    return u, w, factor * jnp.sqrt(_unit(rule, u))


def _terms(u: ArrayLike, w: ArrayLike, degree: int) -> Float[np.ndarray, "P M"]:
    u, w = np.asarray(u, float), np.asarray(w, float)
    return np.stack([u**i * w**j for i, j in powers(degree)], axis=-1)


def _triangle() -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """The shares of all bound pairs that there can be."""
    u, part = np.meshgrid(np.linspace(0, 0.5, PLACES), np.linspace(0, 1, PLACES))
    return np.ravel(u), np.ravel(u * part)


def _orbits() -> tuple[Pairs, Float[np.ndarray, " P"]]:
    """Places on orbits of a sum of masses and a semi-major axis of 1, and their weights.

    All orbits at one place come before those at the next. The sum of the squares of the weights
    goes as the number of steps there.
    """
    e, place = np.meshgrid(ECCENTRICITIES, np.pi * (np.arange(PLACES) + 0.5) / PLACES)
    r, one = 1 - e * np.cos(place), np.ones(e.size)
    columns = (r * r, one, 0.25 * one, e * np.sin(place), 2 / r - 1, one)
    pairs = Pairs(*(jnp.asarray(np.ravel(x)) for x in columns))
    return pairs, np.ravel(r) ** -0.25
