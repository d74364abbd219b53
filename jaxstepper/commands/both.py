"""`both`: trains, then simulates with the result."""

from pathlib import Path

from jaxstepper.commands.simulate import check_mode, check_output, learned_mode, run_simulate
from jaxstepper.commands.train import run_train
from jaxstepper.commands.train_job import fresh_name
from jaxstepper.runs.bodies import initial_tables
from jaxstepper.runs.models import load_model
from jaxstepper.runs.plans import adopt
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import to_dict


def run_both(train: Request, simulate: Request) -> int:
    """`both`: trains, then simulates with the result; returns the exit code.

    Only the JSON of the simulation goes to standard output.
    """
    if train.config.save_name is None:
        train = train.replace(save_name=fresh_name())
    run = str(Path(train.config.checkpoint_dir) / str(train.config.save_name))
    simulate = simulate.replace(model_path=run)
    _check_simulation(simulate, train.config)
    code = run_train(train, lines_on_stderr=True)
    if code:
        return code
    if not simulate.sets("integrator_mode") and simulate.config.controller is None:
        # A resumed run keeps the history length that it began with.
        trained = load_model(run, train.config.checkpoint_dir).config
        simulate = simulate.replace(integrator_mode=learned_mode(trained["history_len"]))
    return run_simulate(simulate)


def _check_simulation(request: Request, trained: Config) -> None:
    """Raises a UserError, before the training, for what would stop the simulation after it."""
    check_output(request.config)
    if trained.model_path is None and not trained.resume:  # else those decide on the network
        name = str(request.config.model_path)
        request = adopt(request, to_dict(trained), name)
        if request.sets("integrator_mode"):
            check_mode(request.config, name)
    if not request.config.use_train_ic:
        initial_tables(request, request.config.multi_orbit_sim)
