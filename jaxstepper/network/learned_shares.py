"""A rule for few bodies that is learned and costs little: a polynomial for each pair."""

from dataclasses import field, replace

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.network.orbital_inputs import shares, square_of_dynamical_rate
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.gravity import safe_norm, safe_sqrt
from jaxstepper.physics.pairs import Pairs, all_pairs
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.field_rule import FieldRule
from jaxstepper.stepping.rule import STATIC, Memory, Number, Rule

SHARE_INPUTS = 3
# On Chin's scheme, by 64 triples: eta for a tolerance of 1, and the largest of use. Beyond, at an
# error of 1e-2, errors grow suddenly.
ETA, MOST_ETA = 2.6, 0.6


def eta_for(tolerance: Float[Array, ""] | float, order: int) -> Float[Array, ""] | float:
    """The eta with which half of all triples keep to an energy error for 30 Henon units."""
    return jnp.minimum(ETA * tolerance ** (1 / order), MOST_ETA)


class ShareRule(FieldRule):
    """h^-4 = sum over pairs of (eta T (f + sqrt(1 + f^2)))^-4, with the dynamical time T of each.

    f is what the network says of the `share_inputs` of a pair. The factor on T, exp(arsinh f), is
    as smooth and as positive as exp f, and takes less time. With weights of 0 it is 1.

    Attributes:
        network: with one output of any sign.
        variables: its weights.
        eta: the step goes as it.
        softening: of the force.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    eta: Number
    softening: Number = 0.0

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        p = particles
        if p.mass.shape[0] == 1:
            return self.shortened(jnp.full_like(p.time, jnp.inf), self.eta, p), ()
        acts, pairs = all_pairs(p, self.softening)
        f = self.network.apply(self.variables, share_inputs(pairs, jnp.sum(p.mass)))[..., 0]
        square = square_of_dynamical_rate(pairs) * (jnp.sqrt(1 + f * f) - f) ** 2
        h = self.eta / _fourth_root_of_sum(jnp.where(acts, square, 0.0))
        return self.shortened(h, self.eta, p), ()

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, eta=factor * self.eta)


def share_inputs(pairs: Pairs, mass: Float[Array, ""]) -> Float[Array, "P 3"]:
    """The shares u and w of every pair, and s, how much its depth counts among all energy.

    With the depth d = m1 m2 / r of the pair, and the energy E of the system about its barycentre,
    s = d / (d + |E|). All lie between 0 and 1, and do not change when velocities are reversed.

    Args:
        pairs: all pairs of a system.
        mass: `[]`, the mass of the system.
    """
    inverse = pairs.inverse_distance
    depth = pairs.product * inverse
    kinetic = jnp.sum(pairs.product * pairs.speed_squared) / (2 * mass)
    whole = depth + jnp.abs(kinetic - jnp.sum(depth))
    s = depth / jnp.where(whole > 0, whole, 1.0)
    return jnp.stack([*shares(pairs, pairs.distance_squared * inverse), s], axis=-1)


def _fourth_root_of_sum(squares: Float[Array, " P"]) -> Float[Array, ""]:
    """The fourth root of the sum of the squares of squares."""
    if squares.dtype == jnp.float64:
        return safe_sqrt(safe_norm(squares))
    # Single precision has no room for them.
    largest = jnp.max(squares)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return safe_sqrt(unit * safe_norm(squares / unit))
