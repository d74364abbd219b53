"""What a training run says at its start and at its end."""

from functools import partial

import jax

from jaxstepper.commands.train_job import Job
from jaxstepper.machine.devices import describe
from jaxstepper.reporting.note import note
from jaxstepper.runs.plans import INPUT_FIELDS, NETWORK_FIELDS
from jaxstepper.runs.writer import RunWriter
from jaxstepper.settings.config import DEFAULTS, OBJECTIVES, OPTIONS, flag_of
from jaxstepper.settings.values import setting
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result


def announce(job: Job, seconds: float, wandb_place: str) -> None:
    """Says what will be trained, on which device, and where it is saved."""
    config = job.config
    size = f"{sum(x.size for x in jax.tree.leaves(job.state.variables['params'])):,}"
    say = partial(note, quiet=config.quiet)
    say(f"device {describe(job.objective.mesh)}, {config.dtype}, seed {config.seed}")
    say(f"network of {size} parameters, {config.num_particles} particles in {config.dim}D")
    say(f"checkpoints in {job.folder}; set up in {seconds:.1f}s")
    if wandb_place:
        say(f"W&B: {wandb_place}")
    if job.checkpoint is None and (suited := _suited(job)):
        say(f"chosen to suit objective {config.objective}: {', '.join(suited)}")
    if job.checkpoint is not None:
        say(f"goes on from {job.checkpoint.path}, in epoch {int(job.state.epoch)}")


def _suited(job: Job) -> list[str]:
    """The options of a new run that nobody set and that do not have their defaults, as flags."""
    config = job.config
    theirs = (*NETWORK_FIELDS, *INPUT_FIELDS) if config.model_path else ()  # from that model
    unset = {*OBJECTIVES[config.objective].values, "feature_type"}.difference(job.given, theirs)
    chosen = {name: getattr(config, name) for name in OPTIONS if name in unset}
    return [
        setting(name, flag_of(name), value)
        for name, value in chosen.items()
        if value != DEFAULTS[name]
    ]


def verdict(result: Result, objective: Objective, writer: RunWriter) -> int:
    """Says how a run that left early ended; returns the exit code."""
    state, saved = result.state, f"saved in {writer.newest}"
    where = objective.where(state)
    if result.stopped == "not finite":
        last = (
            f"the last good checkpoint is {writer.newest}" if writer.newest else "nothing is saved"
        )
        note(f"{where}: the network or its dt is no longer finite; {last}. Try a lower --lr.")
        return 1
    if writer.problem:
        kept = f"{writer.newest} is the newest checkpoint" if writer.newest else "nothing is saved"
        note(f"{where}: the run ends, and its end could not be saved ({writer.problem}); {kept}")
        return 1
    if result.stopped == "stuck":
        note(
            f"{objective.why_stuck(state)}; {saved}. Try a larger --lr or --max-retrain-steps, or "
            "--dropout 0."
        )
        return 1
    if result.stopped == "interrupted":
        note(f"interrupted in {where}; {saved}; --resume goes on")
    if result.stopped == "retired":
        note("every orbit has completed its period")
    return 0
