"""What --debug prints of training: its attempts, one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxstepper.reporting.console import is_of_windows, note, window_figures
from jaxstepper.training.two_phase.attempt import Attempt
from jaxstepper.training.two_phase.collect import preview
from jaxstepper.training.two_phase.state import EpochProgress, Plan, TrainState


class DebugLines:
    """Looks in at chosen attempts of training; what that comes to is the same without.

    Attributes:
        every: attempts of phase 1 in an epoch, from the first on, between lines.
        replay_every: iterations of phase 2 between lines.
    """

    def __init__(self, every: int, replay_every: int) -> None:
        self.every, self.replay_every = every, replay_every
        self._epoch = -1
        self._attempts = self._iterations = 0

    def look(self, plan: Plan, state: TrainState, used: int) -> int:
        """Tells of the state if it is due; returns the attempts until it may be due again.

        Args:
            plan: what is trained.
            state: between two device calls; calls end with their epochs.
            used: attempts of both phases since the last look.
        """
        epoch, progress = int(state.epoch), state.progress
        iterations = int(progress.replay_iterations)
        if epoch == self._epoch:
            self._attempts += used - (iterations - self._iterations)
        else:
            self._epoch, self._attempts = epoch, 0
        self._iterations = iterations
        if int(progress.step) == plan.steps_per_epoch:
            if iterations and iterations % self.replay_every == 0:
                note(replay_line(epoch, progress))
            return self.replay_every - iterations % self.replay_every
        if self._attempts % self.every == 0:
            step, attempt = int(progress.step), self._attempts + 1
            where = f"epoch {epoch}, step {step}, attempt {attempt}"
            note(f"[debug] {where}: {attempt_figures(preview(plan, state))}")
        # A longer call could go past an iteration of phase 2 that is due.
        return min(self.every - self._attempts % self.every, self.replay_every)

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Tells of an epoch that has ended."""
        note(f"[debug] epoch {metrics['epoch']}: {epoch_figures(metrics)}")


def attempt_figures(outcome: Attempt) -> str:
    """An attempt in a line; ranges and counts where it is of several systems."""
    present = np.asarray(outcome.safe | outcome.failed)
    failed = int(np.sum(outcome.failed))
    values = (outcome.dt, outcome.trial.error, outcome.trial.loss)
    dt, error, loss = (np.asarray(value)[present] for value in values)
    if len(dt) == 1:
        verdict = "retrain" if failed else "accepted"
        return f"dt {dt[0]:.3e}, energy error {error[0]:.3e}, loss {loss[0]:.4g}, {verdict}"
    return (
        f"dt {dt.min():.3e} to {dt.max():.3e}, energy error {error.min():.3e} to "
        f"{error.max():.3e}, mean loss {loss.mean():.4g}, "
        f"{len(dt) - failed} accepted, {failed} retrain"
    )


def replay_line(epoch: int, progress: EpochProgress) -> str:
    """The last iteration of phase 2."""
    failing, error = 1 - float(progress.replay_pass_rate), progress.replay_error
    return (
        f"[debug] epoch {epoch}, phase 2, iteration {int(progress.replay_iterations)}: "
        f"{failing:.1%} failing, energy error mean {float(error.mean):.3e}, "
        f"max {float(error.largest):.3e}"
    )


def epoch_figures(metrics: Mapping[str, Any]) -> str:
    """The steps of an epoch: how often they were retrained, their dt, errors and phase 2."""
    if is_of_windows(metrics):
        return window_figures(metrics)
    return (
        f"{metrics['total_steps']} steps, retrain iterations "
        f"mean {metrics['mean_retrain_iterations']:.2f}, "
        f"max {metrics['max_retrain_iterations']:.0f}, "
        f"dt {metrics['min_dt']:.3e} to {metrics['max_dt']:.3e}, "
        f"error {metrics['min_energy_error']:.2e} to {metrics['max_energy_error']:.2e}, "
        f"phase 2 {metrics['iterations']} iterations, pass rate {metrics['final_pass_rate']:.1%}"
    )
