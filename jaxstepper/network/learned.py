"""Rules whose dt a network chooses: `LearnedRule`, and `OrbitalRule`, which is free of scale."""

from dataclasses import field, replace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.network.features import FeatureSpec, network_input, observe, reuses_acceleration
from jaxstepper.network.history import empty_history, push
from jaxstepper.network.learned_pairs import PairRule, eta_for
from jaxstepper.network.learned_shares import ShareRule
from jaxstepper.network.learned_shares import eta_for as eta_for_shares
from jaxstepper.network.orbital_inputs import (
    binding,
    eccentric_inputs,
    orbital_inputs,
    square_of_dynamical_rate,
    stake,
    surroundings,
)
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.diagnostics import barycentric, kinetic_energy
from jaxstepper.physics.field_rate import field_time, squared_rates
from jaxstepper.physics.gravity import Gravity, safe_norm, safe_sqrt
from jaxstepper.physics.pairs import (
    Pairs,
    encounters,
    fastest_encounters,
    rate_of_all,
    square_of_free_fall,
)
from jaxstepper.physics.particles import Particles
from jaxstepper.physics.reductions import SUM_OF_FOURTH_POWERS, Falls
from jaxstepper.stepping.field_rule import FieldRule, check_field, check_pairs
from jaxstepper.stepping.rule import STATIC, Memory, Number, Rule
from jaxstepper.stepping.scheme import Fallen, Scheme

# Keeps a learned dt above zero, as the torch simulator does.
LEARNED_DT_FLOOR = 1e-6
DEFAULT_TOLERANCE = 1e-3
# The network sees the logarithm of the tolerance relative to this one, clipped to the range of its
# training. Below the range dt goes as a root of the tolerance, that of the order of the scheme, as
# any small step does.
REFERENCE_TOLERANCE = 1e-3
# A leapfrog step of this many times the dynamical time times sqrt(tolerance) has about that error;
# on a scheme of order p it is the root of that order.
STEP_SCALE = 2.0
# The dt of a network that cannot see the external field is capped at this fraction of the field's
# time scale, where energy errors are about 1e-3.
SHARE_OF_FIELD_TIME = 0.1
# How much the `stake` of an encounter counts. Clusters without tight binaries, on which networks of
# encounters are trained, hardly show it. With 5 a tight binary keeps to a tolerance of 1e-3 or less
# (tests/test_shipped.py), but need not to 1e-2.
OF_STAKE = 5.0


def learned_rule(
    network: nn.Module,
    features: FeatureSpec,
    gravity: Gravity,
    variables: Variables,
    tolerance: Float[Array, ""] | float = DEFAULT_TOLERANCE,
    scheme: Scheme = Rule.scheme,
) -> Rule:
    """The rule of any network: of a kind of its own for native inputs, else `LearnedRule`.

    The latter does not use the tolerance. The scheme is that of the training.
    """
    rule: Rule = LearnedRule(network, variables, features, gravity)
    if features.kind == "pairs":
        eta = eta_for(tolerance)
        rule = PairRule(network, variables, eta, gravity.softening, external=gravity.external)
    elif features.kind == "shares":
        eta = eta_for_shares(tolerance, scheme.order)
        rule = ShareRule(network, variables, eta, gravity.softening, external=gravity.external)
    elif features.is_native:
        rule = OrbitalRule(
            network,
            variables,
            tolerance,
            gravity.softening,
            features.tolerances,
            features.kind == "encounters",
            scheme.order,
            features.fastest,
            features.kind == "eccentric",
            external=gravity.external,
        )
    return rule.on(scheme)


class LearnedRule(Rule):
    """The network's dt, from the current state and the states before it in this rollout.

    The network does not see an external field, though its training may have. The field keeps dt
    below a tenth of its own time scale.

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
        if self.gravity.external is not None:
            longest = SHARE_OF_FIELD_TIME * field_time(self.gravity.external, particles)
            dt = jnp.minimum(dt, longest.astype(dt.dtype))
        return dt, push(memory, observed)

    def check_gravity(self, gravity: Gravity, /) -> None:
        check_field("this learned rule", self.gravity.external, gravity)


class OrbitalRule(FieldRule):
    """h = 2 tolerance^(1/p) T exp(network), with the dynamical or free-fall time T of a pair.

    p is the order of the scheme that the network was trained through.

    An external field counts as one more pair, with its time scale for T and no network.

    Among many bodies, each contributes its encounter, so the network is evaluated N times, and h is
    a smooth minimum of their steps: h^-4 is half the sum of theirs, since each encounter appears
    twice. Scaling the rule by a factor scales the tolerance by the factor's p-th power.

    Attributes:
        network: with outputs of any sign.
        variables: its weights.
        tolerance: the largest relative energy error to aim for.
        softening: of the force.
        tolerances: the smallest and largest tolerance of the training.
        sees_others: whether the network also sees the `surroundings` of each encounter. Its step is
            then in units of T (1 + 5 x)^(-1/p), with the free-fall time T, which a body that merely
            passes does not shorten, and the `stake` x, since the error of a tight binary is to be
            small compared with the energy of all.
        order: p.
        fastest: of how many bodies, those with the shortest free-fall times, the encounters with
            each other count; 0 for all. Slower ones add little to the sum of h^-4. It is for
            `sees_others`.
        for_any_e: whether the network sees `eccentric_inputs`. Its step is then in units of
            T binding^(1/p), with `binding`, since the error of a step goes as the potential at its
            place, and is to be small compared with the energy of the whole orbit.
    """

    network: nn.Module = field(metadata=STATIC)
    variables: Variables
    tolerance: Number = DEFAULT_TOLERANCE
    softening: Number = 0.0
    tolerances: tuple[float, float] = field(default=FeatureSpec.tolerances, metadata=STATIC)
    sees_others: bool = field(default=False, metadata=STATIC)
    order: int = field(default=2, metadata=STATIC)
    fastest: int = field(default=0, metadata=STATIC)
    for_any_e: bool = field(default=False, metadata=STATIC)

    @property
    def falls(self) -> Falls | None:
        return SUM_OF_FOURTH_POWERS if self.sees_others and self.fastest > 0 else None

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        check_pairs(self.external, particles)
        tolerance = jnp.asarray(self.tolerance, particles.time.dtype)
        rate = jnp.zeros((), particles.time.dtype)
        if particles.mass.shape[0] > 1:
            rate = self._rate_of_pairs(memory, particles)
        if self.external is not None:
            squares = jnp.append(squared_rates(self.external, particles), rate**2)
            rate = safe_sqrt(safe_norm(squares))
        return STEP_SCALE * root(tolerance, self.order) / rate, ()

    def _rate_of_pairs(self, known: Memory, particles: Particles) -> Float[Array, ""]:
        """1 / T exp(-network) of all pairs together."""
        if self.sees_others and 0 < self.fastest < particles.mass.shape[0]:
            # They only say which bodies to look at; their own softening may be another.
            powers = known.of_bodies if isinstance(known, Fallen) else None
            pairs, rates = fastest_encounters(particles, self.softening, self.fastest, powers)
        else:
            square = square_of_free_fall if self.sees_others else square_of_dynamical_rate
            pairs, rates = encounters(square, particles, self.softening)
        factor = jnp.exp(-self.log_factor(pairs, rates))
        kinetic = kinetic_energy(barycentric(particles, Gravity()))
        return self.together(pairs, rates, factor, kinetic)

    def together(
        self,
        pairs: Pairs,
        rates: Float[Array, " P"],
        factor: Float[Array, " P"],
        kinetic: Float[Array, ""] | float = 0.0,
    ) -> Float[Array, ""]:
        """The rate of all pairs, given exp(-network) of each; infinite if bodies meet in a place.

        Of such bodies the network knows nothing.
        """
        rate = rate_of_all(self.rates_of(pairs, rates, kinetic) * factor)
        return jnp.where(jnp.any(jnp.isinf(rates)), jnp.inf, rate)

    def rates_of(
        self, pairs: Pairs, rates: Float[Array, " P"], kinetic: Float[Array, ""] | float = 0.0
    ) -> Float[Array, " P"]:
        """The rates of pairs that the network's factor is relative to; `kinetic` as in `stake`."""
        if self.sees_others:
            return rates * root(1 + OF_STAKE * stake(pairs, kinetic), self.order)
        return rates / root(binding(pairs), self.order) if self.for_any_e else rates

    def log_factor(self, pairs: Pairs, rates: Float[Array, " P"]) -> Float[Array, " P"]:
        """What the network says of pairs that have these rates."""
        dtype = pairs.mu.dtype
        seen = jnp.clip(jnp.asarray(self.tolerance, dtype), *self.tolerances) / REFERENCE_TOLERANCE
        column = jnp.full((pairs.mu.size, 1), jnp.log(seen) / np.log(10.0), dtype)
        seen_of_others = [surroundings(pairs, rates, self.softening)] if self.sees_others else []
        inputs_of = eccentric_inputs if self.for_any_e else orbital_inputs
        inputs = jnp.concatenate([inputs_of(pairs), *seen_of_others, column], axis=-1)
        return self.network.apply(self.variables, inputs)[:, 0]

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, tolerance=self.tolerance * factor**self.order)


def root(tolerance: Float[Array, "*B"], order: int) -> Float[Array, "*B"]:
    """The size of steps whose error, on a scheme of this order, goes as the tolerance."""
    if order == 4:
        return jnp.sqrt(jnp.sqrt(tolerance))  # several times as fast as a power
    return jnp.sqrt(tolerance) if order == 2 else tolerance ** (1 / order)
