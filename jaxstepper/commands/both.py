"""What `both` does: trains, then simulates with the result."""

from dataclasses import replace
from pathlib import Path

from jaxstepper.commands.simulate import check_mode, check_output, run_simulate
from jaxstepper.commands.train import run_train
from jaxstepper.commands.train_job import fresh_name
from jaxstepper.runs import setup
from jaxstepper.runs.models import load_model
from jaxstepper.runs.setup import Given
from jaxstepper.settings.config import Config, to_dict


def run_both(train: tuple[Config, Given], simulate: tuple[Config, Given]) -> int:
    """`both`: trains, then simulates with the result; returns the exit code.

    Standard output holds the JSON of the simulation alone.
    """
    train_config, train_given = train
    if train_config.save_name is None:
        train_config = replace(train_config, save_name=fresh_name())
    config, given = simulate
    run = str(Path(train_config.checkpoint_dir) / str(train_config.save_name))
    config = replace(config, model_path=run)
    _check_simulation(config, given, train_config)
    code = run_train(train_config, train_given, lines_on_stderr=True)
    if code:
        return code
    if "integrator_mode" not in given and config.controller is None:
        # A resumed run has the history it began with.
        trained = load_model(run, train_config.checkpoint_dir).config
        mode = "history" if trained["history_len"] else "ml"
        config = replace(config, integrator_mode=mode)
    return run_simulate(config, given)


def _check_simulation(config: Config, given: Given, trained: Config) -> None:
    """Finds what would stop the simulation before the training that it follows.

    Raises:
        UserError: something would.
    """
    check_output(config)
    if trained.model_path is None and not trained.resume:  # else those decide on the network
        config = setup.adopt(config, given, to_dict(trained), str(config.model_path))
        if "integrator_mode" in given:
            check_mode(config, str(config.model_path))
    if not config.use_train_ic:
        setup.initial_tables(config, given, config.multi_orbit_sim)
