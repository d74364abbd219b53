"""Two-phase training in words: lines, bars, warnings and W&B keys."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxstepper.training.objective import Look, Outcome, Part
from jaxstepper.training.two_phase.attempt import Attempt
from jaxstepper.training.two_phase.collect import preview
from jaxstepper.training.two_phase.plan import Plan
from jaxstepper.training.two_phase.progress import EpochProgress
from jaxstepper.training.two_phase.state import TrainState

PHASE_1 = (
    "trajectory_length",
    "mean_retrain_iterations",
    "max_retrain_iterations",
    "mean_energy_error",
    "min_energy_error",
    "max_energy_error",
    "warmup_discarded",
    "acceptance_rate",
    "mean_retrain_loss",
    "max_retrain_loss",
    "mean_retrain_rel_dE",
    "max_retrain_rel_dE",
)
PHASE_2 = ("converged", "iterations", "final_pass_rate", "mean_rel_dE", "max_rel_dE")


def line(metrics: Mapping[str, Any]) -> str:
    """An epoch's line on the console, in the torch system's words."""
    outcome = "converged" if metrics["converged"] else f"max_iter({metrics['iterations']})"
    return f"traj_len={metrics['trajectory_length']}, part2={outcome}"


def figures(metrics: Mapping[str, Any]) -> str:
    """An epoch's metrics beside the progress bar."""
    return (
        f"acceptance {metrics['acceptance_rate']:.0%}, "
        f"retrain {metrics['mean_retrain_iterations']:.3g}, "
        f"energy error {metrics['mean_energy_error']:.1e}, "
        f"dt {metrics['min_dt']:.2e} to {metrics['max_dt']:.2e}"
    )


def details(metrics: Mapping[str, Any]) -> str:
    """An epoch's metrics in the lines of --debug."""
    return (
        f"{metrics['total_steps']} steps, retrain iterations "
        f"mean {metrics['mean_retrain_iterations']:.2f}, "
        f"max {metrics['max_retrain_iterations']:.0f}, "
        f"dt {metrics['min_dt']:.3e} to {metrics['max_dt']:.3e}, "
        f"error {metrics['min_energy_error']:.2e} to {metrics['max_energy_error']:.2e}, "
        f"phase 2 {metrics['iterations']} iterations, pass rate {metrics['final_pass_rate']:.1%}"
    )


def summary(state: TrainState, metrics: Mapping[str, Any]) -> list[Outcome]:
    """The convergence rate, and outcomes of the last epoch."""
    epochs = int(state.epoch)
    rate = int(state.converged) / epochs if epochs else 0.0
    outcomes = [Outcome("convergence_rate", rate, "convergence rate", f"{rate:.1%}")]
    if metrics:
        length, passing = metrics["trajectory_length"], metrics["final_pass_rate"]
        outcomes += [
            Outcome("final/trajectory_length", length, "final trajectory length", str(length)),
            Outcome("final/final_pass_rate", passing, "final pass rate", f"{passing:.1%}"),
            Outcome("final/max_energy_error", metrics["max_energy_error"]),
        ]
    return outcomes


def wandb_keys(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch under the torch system's W&B keys."""
    return {
        **{name: metrics[name] for name in ("epoch", "epoch_time")},
        **{f"part1/{name}": metrics[name] for name in PHASE_1},
        **{f"part2/{name}": metrics[name] for name in PHASE_2},
    }


def part(plan: Plan, state: TrainState) -> Part:
    """How far the current epoch has come."""
    progress = state.progress
    step, steps = int(progress.step), plan.steps_per_epoch
    if step == steps:
        passing = f"{float(progress.replay_pass_rate):.1%} of the last batch pass"
        return Part("phase 2", int(progress.replay_iterations), plan.replay_steps, passing)
    failures = jnp.where(progress.waiting, 0, progress.failures)
    worst = int(jnp.max(failures))
    if not worst:
        return Part("phase 1", step, steps, "")
    error = float(jnp.max(progress.last_error, where=failures == worst, initial=0.0))
    about = f"step {step + 1} of {steps}: energy error {error:.1e}, to be below "
    cap = plan.max_retrain_steps or None
    return Part("retraining", worst, cap, about + f"{plan.gate.threshold:g}")


def why_stuck(plan: Plan, state: TrainState) -> str:
    """Which step exceeded the retrain cap."""
    worst = int(jnp.argmax(state.progress.failures))
    return (
        f"stuck at epoch {int(state.epoch)}, step {int(state.progress.step)}, system {worst}, "
        f"time {float(state.systems.particles.time[worst]):g}: after "
        f"{plan.max_retrain_steps} retrain iterations the relative energy error is still "
        f"{float(state.progress.last_error[worst]):.2e}, not below {plan.gate.threshold:g}"
    )


def retraining(state: TrainState) -> str:
    """A warning about a step that has been retrained very often."""
    progress = state.progress
    worst = int(jnp.max(progress.failures))
    error = float(progress.last_error[jnp.argmax(progress.failures)])
    return (
        f"epoch {int(state.epoch)}, step {int(progress.step)}: {worst} retrain iterations "
        f"on one step; its relative energy error is {error:.2e}, accepted are errors below the "
        "energy threshold"
    )


def looking(plan: Plan, every: int, replay_every: int) -> Look:
    """Shows an attempt of phase 1 in `every`, and an iteration of phase 2 in `replay_every`.

    Training goes on as it would without being watched.
    """
    epoch_before, attempts, iterations_before = -1, 0, 0

    def look(state: TrainState, used: int) -> tuple[str, int]:
        nonlocal epoch_before, attempts, iterations_before
        epoch, progress = int(state.epoch), state.progress
        iterations = int(progress.replay_iterations)
        if epoch == epoch_before:
            attempts += used - (iterations - iterations_before)
        else:
            epoch_before, attempts = epoch, 0
        iterations_before = iterations
        if int(progress.step) == plan.steps_per_epoch:
            is_due = iterations and iterations % replay_every == 0
            said = replay_line(epoch, progress) if is_due else ""
            return said, replay_every - iterations % replay_every
        said = ""
        if attempts % every == 0:
            where = f"epoch {epoch}, step {int(progress.step)}, attempt {attempts + 1}"
            said = f"{where}: {attempt_figures(preview(plan, state))}"
        # A longer call could run past an iteration of phase 2 that is due.
        return said, min(every - attempts % every, replay_every)

    return look


def attempt_figures(outcome: Attempt) -> str:
    """An attempt in a line, with ranges and counts if several systems took part."""
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
        f"epoch {epoch}, phase 2, iteration {int(progress.replay_iterations)}: "
        f"{failing:.1%} failing, energy error mean {float(error.mean):.3e}, "
        f"max {float(error.largest):.3e}"
    )
