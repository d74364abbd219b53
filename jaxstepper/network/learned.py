"""The learned rule with inputs and output of our own: free of scale, with a tolerance as input."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxstepper.network.features import FeatureSpec, network_input, observe, reuses_acceleration
from jaxstepper.network.history import empty_history, push
from jaxstepper.network.orbital_inputs import (
    dynamical_rate,
    free_fall_rate,
    orbital_inputs,
    surroundings,
)
from jaxstepper.network.step_network import StepNetwork, Variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.pairs import encounters, rate_of_all
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.controller import Controller, Memory, no_memory

# Keeps a dt above zero in simulation, as the torch simulator does.
LEARNED_DT_FLOOR = 1e-6
DEFAULT_TOLERANCE = 1e-3
# What a network sees of the tolerance: its logarithm about this one, cut off where it was trained.
# Below the range dt goes as the square root of the tolerance, as for any small leapfrog step.
REFERENCE_TOLERANCE = 1e-3
# Steps this many times the dynamical time times sqrt(tolerance) have about that energy error.
STEP_SCALE = 2.0


def learned_rule(
    network: StepNetwork,
    features: FeatureSpec,
    gravity: Gravity,
    variables: Variables,
    tolerance: Float[Array, ""] | float = DEFAULT_TOLERANCE,
) -> Controller:
    """The rule of any network: `orbital` for native inputs, else `learned`, without a tolerance."""
    if features.is_native:
        sees_others = features.kind == "encounters"
        rule = OrbitalRule(network, gravity.softening, features.tolerances, sees_others)
        return orbital(rule, variables, tolerance)
    return learned(network, variables, features, gravity)


@jax.tree_util.register_static
@dataclass(frozen=True)
class _LearnedRule:
    """What is fixed about a learned controller; equal ones compile once."""

    network: StepNetwork
    features: FeatureSpec
    gravity: Gravity


def _learned_init(rule: _LearnedRule, particles: Particles) -> Memory:
    return empty_history(rule.features.history_len, particles)


def _learned_step(
    rule: _LearnedRule, variables: Variables, memory: Memory, particles: Particles
) -> tuple[Array, Memory]:
    observed = observe(rule.features, rule.gravity, particles)
    inputs = network_input(rule.features, memory, observed)
    dt = rule.network.apply(variables, inputs)[0] + LEARNED_DT_FLOOR
    return dt, push(memory, observed)


def learned(
    network: StepNetwork, variables: Variables, features: FeatureSpec, gravity: Gravity
) -> Controller:
    """The network's dt, from the current state and the states this rollout has been through.

    Without a history it sees magnitudes alone, so that it can be symmetrised.
    """
    rule = _LearnedRule(network, features, gravity)
    past = features.history_len
    return Controller(
        Partial(_learned_init, rule),
        Partial(_learned_step, rule, variables),
        evaluations=0 if reuses_acceleration(features, gravity) else 1,
        irreversible=f"its network sees the {past} states before the current one" if past else "",
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class OrbitalRule:
    """What is fixed about the rule; equal ones compile once.

    Attributes:
        network: with outputs of any sign.
        softening: of the force.
        tolerances: smallest and largest that the network was trained with.
        sees_others: whether the network also sees the `surroundings` of each encounter; its step
            is then in units of the free-fall time, which no body that just passes by shortens.
    """

    network: StepNetwork
    softening: float
    tolerances: tuple[float, float]
    sees_others: bool = False


def orbital(
    rule: OrbitalRule,
    variables: Variables,
    tolerance: Float[Array, ""] | float = DEFAULT_TOLERANCE,
) -> Controller:
    """h = 2 sqrt(tolerance) T exp(network), with the dynamical or free-fall time T of a pair.

    Of many bodies, each takes part with its encounter, so that the network is evaluated N times,
    and h is the smallest of theirs, smoothly: h^-4 is half the sum of theirs, for each encounter is
    there twice. `tolerance` is the largest relative energy error to aim for; to scale the rule's
    steps by a factor is to change the tolerance by its square.
    """
    return Controller(
        no_memory,
        Partial(_orbital_step, rule, variables, tolerance),
        rescaled=Partial(_rescaled, rule, variables, tolerance),
    )


def _orbital_step(
    rule: OrbitalRule,
    variables: Variables,
    tolerance: Array | float,
    memory: Memory,
    particles: Particles,
) -> tuple[Array, Memory]:
    rate_of = free_fall_rate if rule.sees_others else dynamical_rate
    pairs, rates = encounters(rate_of, particles, rule.softening)
    dtype = particles.time.dtype
    tolerance = jnp.asarray(tolerance, dtype)
    seen = jnp.clip(tolerance, *rule.tolerances) / REFERENCE_TOLERANCE
    column = jnp.full((pairs.mu.size, 1), jnp.log(seen) / np.log(10.0), dtype)
    seen_of_others = [surroundings(pairs, rates, rule.softening)] if rule.sees_others else []
    inputs = jnp.concatenate([orbital_inputs(pairs), *seen_of_others, column], axis=-1)
    log_factor = rule.network.apply(variables, inputs)[:, 0]
    rate = rate_of_all(rates * jnp.exp(-log_factor))
    return STEP_SCALE * jnp.sqrt(tolerance) / rate, memory


def _rescaled(
    rule: OrbitalRule, variables: Variables, tolerance: Array | float, factor: Array | float
) -> Controller:
    return orbital(rule, variables, tolerance * factor**2)
