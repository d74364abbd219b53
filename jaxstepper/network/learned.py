"""Rules whose dt a network chooses: `LearnedRule`, and `OrbitalRule`, which is free of scale."""

from dataclasses import field, replace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.network.features import FeatureSpec, network_input, observe, reuses_acceleration
from jaxstepper.network.history import empty_history, push
from jaxstepper.network.orbital_inputs import (
    dynamical_rate,
    free_fall_rate,
    orbital_inputs,
    surroundings,
)
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.pairs import encounters, rate_of_all
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rule import STATIC, Memory, Number, Rule

# Keeps a learned dt above zero, as the torch simulator does.
LEARNED_DT_FLOOR = 1e-6
DEFAULT_TOLERANCE = 1e-3
# The network sees the logarithm of the tolerance relative to this one, clipped to the range of its
# training. Below the range dt goes as the square root of the tolerance, as any small leapfrog step
# does.
REFERENCE_TOLERANCE = 1e-3
# A step of this many times the dynamical time times sqrt(tolerance) has about that energy error.
STEP_SCALE = 2.0


def learned_rule(
    network: nn.Module,
    features: FeatureSpec,
    gravity: Gravity,
    variables: Variables,
    tolerance: Float[Array, ""] | float = DEFAULT_TOLERANCE,
) -> Rule:
    """The rule of any network: `OrbitalRule` for native inputs, else `LearnedRule`.

    Only an `OrbitalRule` uses the tolerance.
    """
    if features.is_native:
        return OrbitalRule(
            network,
            variables,
            tolerance,
            gravity.softening,
            features.tolerances,
            features.kind == "encounters",
        )
    return LearnedRule(network, variables, features, gravity)


class LearnedRule(Rule):
    """The network's dt, from the current state and the states before it in this rollout.

    Without a history the network sees magnitudes alone, and the rule can be symmetrised.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    features: FeatureSpec = field(metadata=STATIC)
    gravity: Gravity = field(metadata=STATIC)

    @property
    def evaluations(self) -> int:
        return 0 if reuses_acceleration(self.features, self.gravity) else 1

    @property
    def irreversible(self) -> str:
        past = self.features.history_len
        return f"its network sees the {past} states before the current one" if past else ""

    def init(self, particles: Particles, /) -> Memory:
        return empty_history(self.features.history_len, particles)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        observed = observe(self.features, self.gravity, particles)
        inputs = network_input(self.features, memory, observed)
        dt = self.network.apply(self.variables, inputs)[0] + LEARNED_DT_FLOOR
        return dt, push(memory, observed)


class OrbitalRule(Rule):
    """h = 2 sqrt(tolerance) T exp(network), with the dynamical or free-fall time T of a pair.

    Among many bodies, each contributes its encounter, so the network is evaluated N times, and h is
    a smooth minimum of their steps: h^-4 is half the sum of theirs, since each encounter appears
    twice. Scaling the rule by a factor scales the tolerance by its square.

    Attributes:
        network: with outputs of any sign.
        variables: its weights.
        tolerance: the largest relative energy error to aim for.
        softening: of the force.
        tolerances: the smallest and largest tolerance of the training.
        sees_others: whether the network also sees the `surroundings` of each encounter. Its step is
            then in units of the free-fall time, which a body that merely passes does not shorten.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    tolerance: Number = DEFAULT_TOLERANCE
    softening: Number = 0.0
    tolerances: tuple[float, float] = field(default=FeatureSpec.tolerances, metadata=STATIC)
    sees_others: bool = field(default=False, metadata=STATIC)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        rate_of = free_fall_rate if self.sees_others else dynamical_rate
        pairs, rates = encounters(rate_of, particles, self.softening)
        dtype = particles.time.dtype
        tolerance = jnp.asarray(self.tolerance, dtype)
        seen = jnp.clip(tolerance, *self.tolerances) / REFERENCE_TOLERANCE
        column = jnp.full((pairs.mu.size, 1), jnp.log(seen) / np.log(10.0), dtype)
        seen_of_others = [surroundings(pairs, rates, self.softening)] if self.sees_others else []
        inputs = jnp.concatenate([orbital_inputs(pairs), *seen_of_others, column], axis=-1)
        log_factor = self.network.apply(self.variables, inputs)[:, 0]
        rate = rate_of_all(rates * jnp.exp(-log_factor))
        return STEP_SCALE * jnp.sqrt(tolerance) / rate, memory

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, tolerance=self.tolerance * factor**2)
