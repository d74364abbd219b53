"""Whether a run may go on with the config it is given."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.settings.config import OPTIONS, Config
from jaxstepper.settings.stored import from_dict, to_dict
from jaxstepper.settings.values import setting

# What may change from one part of a run to the next: when it ends, where it runs, what it shows
# and keeps. The rest decides what is computed.
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


def what_was_given(config: Config, given: Mapping[str, str]) -> dict[str, Any]:
    """What was given explicitly, as plain JSON values."""
    return {name: value for name, value in to_dict(config).items() if name in given}


def resumed_config(config: Config, given: Mapping[str, str], checkpoint: Checkpoint) -> Config:
    """The config to go on with: the run's own, and what was given now of what is harmless.

    Raises:
        UserError: something that was given would make it another run.
    """
    run = checkpoint.path.parent
    # What was asked for counts; what came of it may differ, as the number of bodies of a draw.
    asked = {**checkpoint.config, **checkpoint.about.get("given", {})}
    changed = [
        f"{setting(name, given[name], value)} (was {asked.get(name)})"
        for name, value in what_was_given(config, given).items()
        if name not in HARMLESS and value != asked.get(name)
    ]
    if changed:
        raise UserError(
            f"--resume: {run} was trained with another config: {', '.join(changed)}; leave that "
            "out to go on, or train anew with another --save-name"
        )
    now = {"save_name", "checkpoint_dir", *(name for name in given if name in HARMLESS)}
    before, _ = from_dict(checkpoint.config)
    return replace(before, **{name: getattr(config, name) for name in now})
