"""The objective of training by evolution: a criterion or a rule, on whole rollouts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned_criterion import LearnedCriterion
from jaxstepper.network.learned_pairs import PairRule
from jaxstepper.network.learned_shares import ShareRule
from jaxstepper.network.step_network import Variables, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.stepping.rule import Number, Rule, symmetrized
from jaxstepper.stepping.scheme import Scheme
from jaxstepper.training.evolution.strategy import Strategy, ask, fresh_strategy, tell
from jaxstepper.training.evolution.trial import (
    MEETINGS,
    Trial,
    try_on_all,
    try_shared_on_all,
)
from jaxstepper.training.objective import Objective, Outcome, Part, State, fresh
from jaxstepper.training.status import RUNNING

# Every candidate is tried with so many etas between the smallest and the largest.
ETAS = 3
# Tried in every generation beside the candidates: weights of 0, and the strategy's mean.
START, MEAN, OTHERS = 0, 1, 2
# What weights of 0 are, by the kind of inputs.
START_NAMES = {"derivatives": "aarseth", "pairs": "huayno", "shares": "dynamical"}


class EvolutionMetrics(NamedTuple):
    """The metrics of a generation; every field is `[]`.

    Attributes:
        epoch: its number, from 0.
        loss: the strategy's mean: log of the work at equal error.
        relative_work: work at equal error of the strategy's mean, divided by that of weights 0 on
            the same systems: of Aarseth's criterion, HUAYNO's rule, or steps in proportion to the
            dynamical time.
        candidates: likewise, the geometric mean over candidates.
        spread: the step of the strategy.
        failed: the share of the rollouts of candidates that failed.
    """

    epoch: Array
    loss: Array
    relative_work: Array
    candidates: Array
    spread: Array
    failed: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Generation:
    """The progress of a generation; calls may end after any trial.

    Attributes:
        tried: `[]`, how many of them were tried.
        loss: `[P + 2]`, of weights 0, of the mean, and of P candidates.
        failed: `[P + 2]`, the share of rollouts that failed.
    """

    tried: Int[Array, ""]
    loss: Float[Array, " Q"]
    failed: Float[Array, " Q"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EvolutionState(State):
    """What training by evolution adds to a `State`, whose variables are those of the mean.

    The candidates of a generation, and its systems, follow from the key, the epoch and the
    strategy.

    Attributes:
        strategy: it takes the place of the optimiser's state.
        pool: `[M, N, 1 + 2 D]`, the systems to draw from.
        progress: that of the current generation.
    """

    strategy: Strategy
    pool: Float[Array, "M N C"]
    progress: Generation


@dataclass(frozen=True)
class Evolution(Objective):
    """Train a criterion, a `PairRule` or a `ShareRule`: little work, small energy errors.

    Steps in powers of two have no useful gradient, and rollouts of few bodies are chaotic, so a
    strategy draws candidates, and only the order of their losses counts. All candidates of a
    generation take the same systems. An epoch is a generation, and a unit of work the trial of one
    candidate.

    Attributes:
        network: maps `derivative_inputs` to the logarithm of a factor on Aarseth's step, or
            `pair_inputs` to that on HUAYNO's, or `share_inputs` to that on a dynamical time.
        features: says which inputs.
        gravity: what moves the bodies.
        optimizer: is not used; the strategy needs no gradient.
        population: P, the candidates of a generation; even.
        systems: how many each of them is tried on, drawn anew for every generation.
        time: the length of their rollouts.
        etas: the smallest and the largest eta.
        spread: the standard deviation of the first candidates' weights.
        scheme: takes the steps; a `ShareRule` is symmetrised on those that can be.
    """

    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    population: int = 16
    systems: int = 16
    time: float = 1.0
    etas: tuple[float, float] = (0.03, 0.3)
    spread: float = 0.15
    scheme: Scheme = PairRule.scheme  # type: ignore[misc]

    in_turn_on_cpu: ClassVar[bool] = True
    chosen_by: ClassVar[tuple[str, ...]] = ("relative_work", "loss", "candidates")

    def init(
        self, tables: np.ndarray, key: Array, variables: Variables | None = None
    ) -> EvolutionState:
        """The state before the first generation, of systems `[M, N, 1 + 2 D]`."""
        key, start = jax.random.split(key)
        if variables is None:
            variables = init_variables(self.network, start, self.features.size)
        mean, _ = ravel_pytree(variables["params"])
        state = EvolutionState(
            **fresh(self.optimizer, variables, key) | {"optimizer_state": ()},
            strategy=fresh_strategy(mean, self.spread),
            pool=jnp.asarray(tables, self.network.dtype),
            progress=self._no_trials(),
        )
        # A donated state must not hold one buffer twice.
        return jax.tree.map(jnp.copy, state)

    def chunk(
        self, state: EvolutionState, budget: Array
    ) -> tuple[EvolutionState, Array, Bool[Array, ""]]:
        """Trials of the current generation until it ends or the budget of trials is used up."""
        every = self.population + OTHERS

        def working(carry: tuple[EvolutionState, Array]) -> Bool[Array, ""]:
            state, budget = carry
            return (state.progress.tried < every) & (budget > 0) & (state.status == RUNNING)

        def body(carry: tuple[EvolutionState, Array]) -> tuple[EvolutionState, Array]:
            state, budget = carry
            return self._one_trial(state), budget - 1

        state, budget = lax.while_loop(working, body, (state, budget))
        return state, budget, (state.progress.tried == every) & (state.status == RUNNING)

    def metrics(self, state: EvolutionState) -> EvolutionMetrics:
        """The metrics of the generation that has just ended."""
        loss, failed = state.progress.loss, state.progress.failed
        return EvolutionMetrics(
            epoch=state.epoch,
            loss=loss[MEAN],
            relative_work=jnp.exp(loss[MEAN] - loss[START]),
            candidates=jnp.exp(jnp.mean(loss[OTHERS:]) - loss[START]),
            spread=state.strategy.sigma,
            failed=jnp.mean(failed[OTHERS:]),
        )

    def next_epoch(self, state: EvolutionState) -> EvolutionState:
        """The state before the next generation."""
        return state.replace(epoch=state.epoch + 1, progress=self._no_trials())

    def line(self, metrics: Mapping[str, Any]) -> str:
        """Work, that of the candidates, and their spread."""
        return (
            f"work/{self._start_name}={metrics['relative_work']:.3f}, "
            f"candidates={metrics['candidates']:.3f}, spread={metrics['spread']:.3f}"
        )

    def summary(self, state: EvolutionState, metrics: Mapping[str, Any]) -> list[Outcome]:
        """What the last generation came to."""
        if not metrics:
            return []
        work, label = metrics["relative_work"], f"final work / {self._start_name}"
        return [Outcome("final/relative_work", work, label, f"{work:.3f}")]

    def part(self, state: EvolutionState) -> Part:
        """How far the current generation has come."""
        return Part("trials", int(state.progress.tried), self.population + OTHERS, "")

    def longest_call(self, bodies: int, systems: int) -> tuple[float, float]:
        """A trial, if its steps are a hundredth of the longest."""
        del systems
        return 100.0 * MEETINGS * ETAS * self.systems * bodies**2, 0.0

    def _no_trials(self) -> Generation:
        none = jnp.zeros((self.population + OTHERS,), self.network.dtype)
        return Generation(jnp.zeros((), jnp.int32), none, none)

    def _one_trial(self, state: EvolutionState) -> EvolutionState:
        """The next trial, and after the last one the next distribution of the strategy."""
        draw, choose = jax.random.split(jax.random.fold_in(state.key, state.epoch))
        candidates = ask(state.strategy, draw, self.population)
        mean = state.strategy.mean
        every = jnp.concatenate((jnp.stack((jnp.zeros_like(mean), mean)), candidates))
        progress = state.progress
        trial = self._trial(state, every[progress.tried], choose)
        progress = Generation(
            tried=progress.tried + 1,
            loss=progress.loss.at[progress.tried].set(trial.loss),
            failed=progress.failed.at[progress.tried].set(trial.failed),
        )
        strategy = lax.cond(
            progress.tried == len(every),
            lambda: tell(state.strategy, candidates, progress.loss[OTHERS:]),
            lambda: state.strategy,
        )
        _, unravel = ravel_pytree(state.variables["params"])
        variables = {**state.variables, "params": unravel(strategy.mean)}
        return replace(state, variables=variables, strategy=strategy, progress=progress)

    def _trial(self, state: EvolutionState, weights: Float[Array, " K"], choose: Array) -> Trial:
        _, unravel = ravel_pytree(state.variables["params"])
        variables = {**state.variables, "params": unravel(weights)}
        etas = jnp.geomspace(*self.etas, ETAS, dtype=state.pool.dtype)
        few = min(self.systems, len(state.pool))
        chosen = jax.random.choice(choose, len(state.pool), (few,), replace=False)
        systems, gravity = state.pool[chosen], self.gravity
        if self._is_individual:
            criteria = jax.vmap(lambda eta: LearnedCriterion(self.network, variables, eta))(etas)
            return try_on_all(criteria, gravity, systems, self.time)
        rules = jax.vmap(lambda eta: self.rule_of(variables, eta))(etas)
        return try_shared_on_all(rules, gravity, systems, self.time)

    def rule_of(self, variables: Variables, eta: Number) -> Rule:
        """The rule of some weights, on the scheme, and symmetrised if it can be."""
        kind, gravity = (ShareRule if self.features.kind == "shares" else PairRule), self.gravity
        learned = kind(self.network, variables, eta, gravity.softening, external=gravity.external)
        rule = learned.on(self.scheme)
        return rule if rule.irreversible else symmetrized(rule)

    @property
    def _is_individual(self) -> bool:
        return self.features.kind == "derivatives"

    @property
    def _start_name(self) -> str:
        return START_NAMES[self.features.kind]
