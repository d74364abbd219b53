"""Whether a run may go on with the options that are set now."""

from dataclasses import replace
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.settings.config import OPTIONS, Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import from_dict, to_dict
from jaxstepper.settings.values import setting

# How a part of a run is started, which does not matter to the next; a program has no use for it.
OF_A_PART = (
    "resume",
    "overwrite",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "join_timeout",
)
# The options that may change when a run is resumed: when it ends, where it runs, what it shows and
# keeps. All others decide what is computed.
HARMLESS = {
    "epochs",
    "max_retrain_steps",
    "save_name",
    "checkpoint_dir",
    "checkpoint_interval",
    "checkpoint_minutes",
    "keep",
    "resume",
    "device",
    "compile",
    "compilation_cache",
    "detect_anomaly",
    "integrator_mode",
    "dt",
    "steps",
    "duration",
    "Nperiod",
    "use_train_ic",
    *(
        name
        for name, option in OPTIONS.items()
        if option.group in ("logging", "movie", "several processes")
    ),
    *(name for name, option in OPTIONS.items() if not option.effect),
}


def what_was_set(request: Request) -> dict[str, Any]:
    """The options that were set explicitly, as plain JSON values."""
    return {name: value for name, value in to_dict(request.config).items() if request.sets(name)}


def resumed_config(request: Request, checkpoint: Checkpoint) -> Config:
    """The config to go on with: the run's, with the harmless options that are set now.

    Raises:
        UserError: another option is set that would change the run.
    """
    run = checkpoint.path.parent
    # Compare with what the run was asked to do: a draw, for one, decides on the number of bodies.
    asked = {**checkpoint.config, **checkpoint.about.get("given", {})}
    changed = [
        f"{setting(name, request.source(name), value)} (was {asked.get(name)})"
        for name, value in what_was_set(request).items()
        if name not in HARMLESS and value != asked.get(name)
    ]
    if changed:
        raise UserError(
            f"--resume: {run} was trained with another config: {', '.join(changed)}; leave that "
            "out to go on, or train anew with another --save-name"
        )
    now = {"save_name", "checkpoint_dir", *(each for each in request.sources if each in HARMLESS)}
    before, _ = from_dict(checkpoint.config)
    return replace(before, **{name: getattr(request.config, name) for name in now})
