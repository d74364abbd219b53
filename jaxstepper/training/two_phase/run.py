"""Two-phase training as a function of its own."""

from typing import Any, NamedTuple

from jaxstepper.training.run import run
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.two_phase.state import TrainState


class TrainingResult(NamedTuple):
    """The result of two-phase training: that of `training.run.run`, and one number more.

    Attributes:
        convergence_rate: share of all epochs whose phase 2 converged; 0 of none.
    """

    epochs: int
    total_time: float
    convergence_rate: float
    metrics: dict[str, Any]
    state: TrainState
    stopped: str


def run_two_phase_training(
    plan: TwoPhase, state: TrainState, epochs: int, **hooks: Any
) -> TrainingResult:
    """Trains until `epochs` epochs are complete; `hooks` are those of `training.run.run`."""
    result = run(plan, state, epochs, **hooks)
    rate = plan.summary(result.state, {})[0].value
    return TrainingResult(
        result.epochs, result.total_time, rate, result.metrics, result.state, result.stopped
    )
