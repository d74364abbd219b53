"""The objective of two-phase training: a `Plan`, and what the trainer asks of it."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxstepper.errors import require
from jaxstepper.network.learned import LEARNED_DT_FLOOR
from jaxstepper.network.step_network import Variables
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.training.objective import Objective, Path
from jaxstepper.training.run import all_finite
from jaxstepper.training.status import NOT_FINITE, RUNNING
from jaxstepper.training.two_phase import words
from jaxstepper.training.two_phase.attempt import DT_FLOOR
from jaxstepper.training.two_phase.calibrate import TRIALS, calibrate
from jaxstepper.training.two_phase.collect import collect
from jaxstepper.training.two_phase.epoch import EpochMetrics, epoch_metrics, next_epoch
from jaxstepper.training.two_phase.generalize import generalize
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.state import TrainState, init_train_state, place, restart

# Retrain iterations on one step between warnings.
PATIENCE = 1000
# A constant that is added to every dt is not felt if dt is so many times as long; one that simulate
# adds is warned of if it makes dt longer by a tenth.
UNFELT = 1000
FELT_BELOW = 10
# What phase 1 pays for a unit of simulated time.
COST = "evaluations_per_time"


@dataclass(frozen=True)
class TwoPhase(Plan, Objective):
    """Collect steps that conserve energy, retraining on those that do not; then generalise.

    A unit of work is an attempt: of phase 1, or an iteration of phase 2.
    """

    first_budget: ClassVar[int] = 50
    shares_devices: ClassVar[bool] = True
    follows_paths: ClassVar[bool] = True
    in_turn_on_cpu: ClassVar[bool] = True
    chosen_by: ClassVar[tuple[str, ...]] = (COST, *EpochMetrics._fields[1:], "acceptance_rate")

    def init(
        self, tables: np.ndarray, key: Array, variables: Variables | None = None
    ) -> TrainState:
        """The state before the first epoch, of systems `[B, N, 1 + 2 D]`.

        Raises:
            UserError: in the units of the systems, steps are too short.
        """
        # One compiled program: run one by one, the operations of a start take several seconds.
        start = jax.jit(_start, static_argnums=0)
        # Plain arrays: every process has the same, and the program places them.
        variables = jax.tree.map(np.asarray, variables)
        tables = np.asarray(tables)
        of_dtype = tables.astype(self.network.dtype)
        end_times = self._end_times(tables)
        state, first = start(self, of_dtype, np.asarray(key), variables, end_times)
        _check_first_step(float(first))
        return state

    def chunk(self, state: TrainState, budget: Array) -> tuple[TrainState, Array, Bool[Array, ""]]:
        """Both phases of the current epoch, as far as the budget of attempts goes."""
        state, budget = collect(self, state, budget)
        state, budget = generalize(self, state, budget)
        bad = (state.status == RUNNING) & ~all_finite(state.systems)
        state = state.replace(status=jnp.where(bad, NOT_FINITE, state.status).astype(jnp.int32))
        return state, budget, state.progress.replay_done

    # Functions from the files beside: of the plan and more, or of states and metrics alone.
    metrics = staticmethod(epoch_metrics)
    next_epoch = next_epoch
    place = place

    line = staticmethod(words.line)
    figures = staticmethod(words.figures)
    details = staticmethod(words.details)
    summary = staticmethod(words.summary)
    wandb_keys = staticmethod(words.wandb_keys)
    part = words.part
    why_stuck = words.why_stuck
    look = words.looking

    def restart(self, state: TrainState, tables: np.ndarray) -> TrainState:
        """The state with its systems at the start of new paths `[B, N, 1 + 2 D]`."""
        return _restart(self, state, tables, self._end_times(tables))

    def path(self, state: TrainState) -> Path:
        """The systems' current states."""
        p = state.systems.particles
        return Path(p.mass, p.time, p.dt, p.position, p.velocity, state.systems.energy)

    def plain(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Plain metrics, with the acceptance rate."""
        rate = 1 / (1 + metrics["mean_retrain_iterations"])
        return {**metrics, "acceptance_rate": rate}

    def where(self, state: TrainState) -> str:
        """Epoch and step."""
        return f"epoch {int(state.epoch)}, step {int(state.progress.step)}"

    def complaint(self, state: TrainState) -> tuple[int, Callable[[], str]]:
        """One per `PATIENCE` retrain iterations on one step."""
        worst = int(jnp.max(state.progress.failures))
        return worst // PATIENCE, partial(words.retraining, state)

    def longest_call(self, bodies: int, systems: int) -> tuple[float, float]:
        """An attempt, with the slopes and energies of trial steps, or the calibration."""
        tried = 3.0 * min(systems, self.retrain_batch)
        calibrating = 2.0 * systems * TRIALS if self.calibrated else 0.0
        return max(tried, calibrating) * self.gate.num_steps * bodies**2, tried

    @classmethod
    def value(cls, name: str, metrics: Mapping[str, Any]) -> float:
        """A metric of an epoch.

        `evaluations_per_time` is the number of force evaluations in phase 1 for a unit of simulated
        time, including those of refused attempts. All accepted steps are within the energy
        threshold, so it compares at equal safety; tiny steps cost as much as refused ones.
        """
        if name != COST:
            return float(metrics[name])
        attempts = 1 + metrics["mean_retrain_iterations"]
        return attempts / metrics["mean_dt"] if metrics["mean_dt"] > 0 else math.inf

    def _end_times(self, tables: np.ndarray) -> np.ndarray:
        """When each system retires, `[B]`: bound pairs after a period if asked, others never."""
        periods = [orbital_period(each) if self.stop_at_period else None for each in tables]
        return np.array([np.inf if period is None else period for period in periods])


_restart = jax.jit(restart, static_argnums=0)


def _start(
    plan: TwoPhase, tables: Array, key: Array, variables: Variables | None, end_time: Array
) -> tuple[TrainState, Array]:
    """The state before the first epoch, and the first dt; infinite if it is not calibrated."""
    state = init_train_state(plan, tables, key, variables, end_time)
    first = jnp.full((), jnp.inf)
    if variables is None and plan.calibrated:
        calibrated, first = calibrate(plan, state.variables, state.systems)
        state = state.replace(variables=calibrated)
    return place(plan, state), first


def _check_first_step(dt: float) -> None:
    """Refuses units in which the constants that are added to every dt count, or warns of them.

    The torch simulator adds them, so checkpoints must.

    Raises:
        UserError: the constant of training is above a thousandth of the first dt.
    """
    require(
        dt > UNFELT * DT_FLOOR,
        f"a first step of {dt:.1e} is lost beside the {DT_FLOOR:g} that training adds to every dt, "
        "as the torch system does; choose a smaller unit of time, so that it is a larger number",
    )
    if dt < FELT_BELOW * LEARNED_DT_FLOOR:
        warnings.warn(
            f"a first step of {dt:.1e} is not long beside the {LEARNED_DT_FLOOR:g} that simulate "
            "adds to every learned dt, as the torch system does; choose a smaller unit of time",
            stacklevel=2,
        )
