"""From a configuration to the objective that is trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import numpy as np
import optax

from jaxstepper.network.step_network import as_step_network
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.runs.plans import (
    make_features,
    make_gravity,
    make_network,
    make_optimizer,
    require_room,
)
from jaxstepper.settings.config import Config, matters
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES
from jaxstepper.training.evolution.objective import Evolution
from jaxstepper.training.objective import Objective
from jaxstepper.training.two_phase.gate import Gate
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.windows.objective import Windows

KINDS: dict[str, type[Objective]] = {
    "gate": TwoPhase,
    "window": Windows,
    "evolution": Evolution,
}
"""The objectives by the values of `--objective`."""


@dataclass(frozen=True)
class Overrides:
    """What a program provides itself; None where the configuration decides.

    Attributes:
        network: a Flax module that maps inputs `[..., F]` to outputs `[..., 1 or 2]`, of which
            output 0 becomes dt.
        optimizer: an optax transformation.
        objective: a class that takes `network`, `features`, `gravity` and `optimizer`.
        gravity: the force.
    """

    network: nn.Module | None = None
    optimizer: optax.GradientTransformation | None = None
    objective: type[Objective] | None = None
    gravity: Gravity | None = None

    def described(self) -> dict[str, str]:
        """Notes on network and objective, for checkpoints."""
        parts = {"own_network": self.network, "own_objective": self.objective}
        return {name: str(part) for name, part in parts.items() if part is not None}


NO_OVERRIDES = Overrides()


def make_objective(config: Config, tables: np.ndarray, own: Overrides = NO_OVERRIDES) -> Objective:
    """The objective of a configuration and bodies; a UserError if it does not fit into memory."""
    kind = own.objective or KINDS[config.objective]
    network = make_network(config)
    if own.network is None:
        require_room(config)
    else:
        network = as_step_network(own.network, network.dtype, network.positive)
    common: dict[str, Any] = {
        "network": network,
        "features": make_features(config),
        # The masses that are trained on are G m (`start.complete`).
        "gravity": replace(own.gravity or make_gravity(config), G=1.0),
        "optimizer": own.optimizer or _optimizer(config),
    }
    fields = FIELDS[kind](config, tables) if kind in FIELDS else {}
    return kind(**common, **fields)


def _optimizer(config: Config) -> optax.GradientTransformation:
    decays = matters(config, "lr_decay") and config.lr_decay == "cosine"
    steps = config.epochs * config.window_iterations if decays else 0
    return make_optimizer(config.optimizer, config.lr, config.weight_decay, config.momentum, steps)


def _two_phase_fields(config: Config, tables: np.ndarray) -> dict[str, Any]:
    robust = config.phase1 == "robust"
    gate = Gate(
        num_steps=config.n_steps,
        threshold=config.energy_threshold,
        lower=config.E_lower,
        upper=config.E_upper,
        two_sided=config.band == "both" and robust,
        monotone=robust,
    )
    names = (
        "steps_per_epoch",
        "max_retrain_steps",
        "retrain_batch",
        "replay_steps",
        "replay_batch_size",
        "min_replay_size",
        "stop_at_period",
    )
    return {"gate": gate, "calibrated": robust} | {name: getattr(config, name) for name in names}


def _window_fields(config: Config, tables: np.ndarray) -> dict[str, Any]:
    # Unless all systems are bound pairs, all windows have one length, in units of time.
    bound = all(orbital_period(table) for table in tables)
    return {
        "iterations": config.window_iterations,
        "batch": config.window_batch,
        "steps": config.window_steps,
        "spans": config.window_length if bound else 1.0,
        "span": None if bound else config.window_length,
        "start": config.window_start / (1.0 if bound else config.window_length),
        "tolerances": (config.tolerance_min, config.tolerance_max),
        "unit_spread": config.unit_spread,
        "softening_spread": config.softening_spread,
        "imitation": config.imitation_epochs,
        "scheme": SCHEMES[config.scheme],
    }


def _evolution_fields(config: Config, tables: np.ndarray) -> dict[str, Any]:
    return {
        "population": config.population,
        "systems": config.rollouts,
        "time": config.rollout_time,
        "etas": (config.eta_min, config.eta_max),
        "spread": config.population_spread,
        "scheme": SCHEMES[config.scheme],
    }


FIELDS: dict[type[Objective], Callable[[Config, np.ndarray], dict[str, Any]]] = {
    TwoPhase: _two_phase_fields,
    Windows: _window_fields,
    Evolution: _evolution_fields,
}
"""What a configuration and the bodies decide of an objective's own fields."""
