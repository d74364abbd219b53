"""Two-phase training as a function of its own."""

from typing import Any, NamedTuple

from jaxstepper.training.run import run
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.two_phase.state import TrainState


class TrainingResult(NamedTuple):
    """What a run of two-phase training came to.

    Attributes:
        epochs: completed in all, those before a resumption included.
        total_time: seconds of this call of `run_two_phase_training`.
        convergence_rate: share of those epochs whose phase 2 converged; 0 of none.
        metrics: of the last epoch, as plain numbers; empty if none has ended.
        state: after it.
        stopped: why it ended before the last epoch: "", "interrupted", "retired", "stuck", or
            "not finite".
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
