"""What `both` does: trains, then simulates with the result."""

import sys
from dataclasses import replace
from pathlib import Path

from jaxstepper.config import Config
from jaxstepper.models import load_model
from jaxstepper.setup import Given
from jaxstepper.simulate_command import run_simulate
from jaxstepper.train_command import fresh_name, run_train


def run_both(train: tuple[Config, Given], simulate: tuple[Config, Given]) -> int:
    """`both`: trains, then simulates with the result; returns the exit code.

    Standard output holds the JSON of the simulation alone.
    """
    train_config, train_given = train
    if train_config.save_name is None:
        train_config = replace(train_config, save_name=fresh_name())
    code = run_train(train_config, train_given, stream=sys.stderr)
    if code:
        return code
    config, given = simulate
    run = str(Path(train_config.checkpoint_dir) / str(train_config.save_name))
    mode = config.integrator_mode
    if "integrator_mode" not in given and config.controller is None:
        # A resumed run has the history it began with.
        trained = load_model(run, train_config.checkpoint_dir).config
        mode = "history" if trained["history_len"] else "ml"
    config = replace(config, model_path=run, integrator_mode=mode)
    return run_simulate(config, given)
