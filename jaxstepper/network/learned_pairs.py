"""A rule for few bodies that is learned: HUAYNO's step of every pair, times a factor."""

from dataclasses import field, replace
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.errors import require
from jaxstepper.network.learned_criterion import MOST_LOG_FACTOR
from jaxstepper.network.pair_inputs import pair_inputs
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.hermite import Motion, snap_and_crackle
from jaxstepper.physics.pairs import Pairs, all_pairs, differences
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.field_rule import FieldRule
from jaxstepper.stepping.literature import huayno_rate
from jaxstepper.stepping.rule import STATIC, Number, Rule
from jaxstepper.stepping.scheme import Carried, Hermite, Scheme

# eta for a tolerance of 1, and the power of eta that errors go as: the head of few_bodies.toml.
ETA, POWER = 1.12, 5
# The first step, before which nothing is known of snap and crackle, is this part of HUAYNO's.
FIRST = 0.1
# The order of the smooth minimum over pairs.
SHARPNESS = 8


def eta_for(tolerance: Float[Array, ""] | float) -> Float[Array, ""] | float:
    """The eta with which half of all triples keep to an energy error for 30 Henon units."""
    return ETA * tolerance ** (1 / POWER)


class Known(NamedTuple):
    """What the rule carries: of the last state and this one, `[N, D]` each."""

    acceleration: Float[Array, "N D"]
    jerk: Float[Array, "N D"]
    jerk_now: Float[Array, "N D"]


class PairRule(FieldRule):
    """h^-8 = sum over pairs of (h_pair exp(network))^-8, with HUAYNO's h_pair at some eta.

    The network sees the `pair_inputs`: the orbit of the pair, its share in the energy, and the
    derivatives of its force that Hermite's scheme knows, which so is the rule's own. With weights
    of 0 it is HUAYNO's rule, smoothly.

    Attributes:
        network: with one output of any sign.
        variables: its weights.
        eta: HUAYNO's; the error of a given time goes about as its fifth power.
        softening: of the force.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    eta: Number
    softening: Number = 0.0

    scheme = Hermite()
    irreversible = "it sees the step before, and which way the bodies move"

    def init(self, particles: Particles, /) -> Known:
        none = jnp.zeros_like(particles.acceleration)
        return Known(none, none, none)

    def told(self, memory: Known, carried: Carried, way: Float[Array, ""] | float, /) -> Known:
        return memory._replace(jerk_now=way * carried)

    def step_size(self, memory: Known, particles: Particles, /) -> tuple[Array, Known]:
        p = particles
        known = Known(p.acceleration, memory.jerk_now, memory.jerk_now)
        if p.mass.shape[0] == 1:
            return self.shortened(jnp.full_like(p.time, jnp.inf), self.eta, p), known
        acts, pairs = all_pairs(p, self.softening)
        rate = huayno_rate(self.eta, pairs)
        started = p.dt > 0
        dt = jnp.where(started, p.dt, 1.0)
        log_factor = self.log_factor(memory, p, pairs, dt)
        log_step = jnp.where(started, log_factor, np.log(FIRST)) - jnp.log(rate)
        log_step = jnp.where(acts, log_step, jnp.inf)
        least = jnp.min(log_step)
        shortest = jnp.where(jnp.any(acts), least, 0.0)
        sum_of_all = jnp.sum(jnp.exp(SHARPNESS * (shortest - log_step)))
        sum_of_all = jnp.where(jnp.any(acts), sum_of_all, 1.0)
        h = jnp.exp(least) * sum_of_all ** (-1 / SHARPNESS)
        return self.shortened(h, self.eta, p), known

    def log_factor(
        self, memory: Known, particles: Particles, pairs: Pairs, dt: Float[Array, ""]
    ) -> Float[Array, " P"]:
        """What the network says of all pairs after a step dt."""
        p = particles
        before = Motion(p.position, p.velocity, memory.acceleration, memory.jerk)
        after = Motion(p.position, p.velocity, p.acceleration, memory.jerk_now)
        snap, crackle = snap_and_crackle(before, after, dt)
        known = (p.acceleration, memory.jerk_now, snap, crackle)
        changes = [differences(z * dt**k) for k, z in enumerate(known)]
        inputs = pair_inputs(pairs, changes, dt, jnp.sum(p.mass))
        said = self.network.apply(self.variables, inputs)[..., 0]
        return jnp.clip(said, -MOST_LOG_FACTOR, MOST_LOG_FACTOR)

    def on(self, scheme: Scheme, /) -> Rule:
        require(
            scheme == self.scheme,
            "a rule with inputs pairs was trained for the scheme hermite, whose jerks it needs; "
            "leave the scheme out",
        )
        return self

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, eta=factor * self.eta)
