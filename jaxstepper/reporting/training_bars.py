"""What the progress bars show of training."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxstepper.reporting.bars import Bars
from jaxstepper.reporting.console import is_of_windows, window_figures
from jaxstepper.training.two_phase.state import Plan, TrainState
from jaxstepper.training.windows.run import WindowPlan, WindowState

EPOCHS, RETRAINING, PHASE_1, PHASE_2 = "epochs", "retraining", "phase 1", "phase 2"


class TrainingBars:
    """A bar of epochs, and one below it of an epoch that takes longer than a device call."""

    def __init__(self, bars: Bars, plan: Plan | WindowPlan, done: int, epochs: int) -> None:
        self._bars, self._plan, self._epochs = bars, plan, epochs
        self._done, self._figures = done, ""
        bars.show(EPOCHS, done, epochs, "compiling")

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended."""
        self._figures = figures(metrics)
        self._bars.show(EPOCHS, metrics["epoch"] + 1, self._epochs, self._figures)

    def call(self, state: TrainState | WindowState) -> None:
        """A device call has ended. Every process of a run must come here, for states are shared."""
        done = int(state.epoch)
        shown: tuple[str, int, int | None, str] | None = None
        if done == self._done and isinstance(self._plan, Plan) and isinstance(state, TrainState):
            shown = _within_epoch(self._plan, state)
            self._bars.show(EPOCHS, done, self._epochs, self._figures)
            self._bars.show(*shown)
        for name in (RETRAINING, PHASE_1, PHASE_2):
            if shown is None or name != shown[0]:
                self._bars.hide(name)
        self._done = done


def figures(metrics: Mapping[str, Any]) -> str:
    """An epoch in a line."""
    if is_of_windows(metrics):
        return window_figures(metrics)
    return (
        f"acceptance {metrics['acceptance_rate']:.0%}, "
        f"retrain {metrics['mean_retrain_iterations']:.3g}, "
        f"energy error {metrics['mean_energy_error']:.1e}, "
        f"dt {metrics['min_dt']:.2e} to {metrics['max_dt']:.2e}"
    )


def _within_epoch(plan: Plan, state: TrainState) -> tuple[str, int, int | None, str]:
    """Name, done, total and figures of the bar of an epoch that has not ended."""
    progress = state.progress
    step, steps = int(progress.step), plan.steps_per_epoch
    if step == steps:
        passing = f"{float(progress.replay_pass_rate):.1%} of the last batch pass"
        return PHASE_2, int(progress.replay_iterations), plan.replay_steps, passing
    failures = jnp.where(progress.waiting, 0, progress.failures)
    worst = int(jnp.max(failures))
    if not worst:
        return PHASE_1, step, steps, ""
    error = float(jnp.max(progress.last_error, where=failures == worst, initial=0.0))
    about = f"step {step + 1} of {steps}: energy error {error:.1e}, to be below "
    return RETRAINING, worst, plan.max_retrain_steps or None, about + f"{plan.gate.threshold:g}"
