"""What `simulate` does, once its arguments are known to be good."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxstepper.commands.individual import take_individual_steps
from jaxstepper.commands.movies import movie_options, movie_path
from jaxstepper.commands.outcome import Outcome, Outcomes, print_report, words_of_many
from jaxstepper.commands.output_size import check_size
from jaxstepper.commands.rollout_words import (
    aimed_at,
    aims_at_tolerance,
    rule_name,
    warn_of_domain,
    warn_of_errors,
)
from jaxstepper.commands.run_artifacts import open_wandb
from jaxstepper.errors import UserError
from jaxstepper.machine.devices import choose_mesh, describe, everywhere, sharded
from jaxstepper.machine.processes import on_main
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.physics.precision import check_precision
from jaxstepper.pictures.film import film_of
from jaxstepper.pictures.movies import check_movie, make_movie
from jaxstepper.reporting.bars import open_bars, part_of
from jaxstepper.reporting.note import note
from jaxstepper.runs.bodies import check_tables, initial_tables, warn_of_unused_orbit, with_shape_of
from jaxstepper.runs.jax_setup import choose_seed, configure_jax
from jaxstepper.runs.models import TrainedModel, load_model, rule_of_model
from jaxstepper.runs.places import check_file_place
from jaxstepper.runs.plans import adopt, make_gravity
from jaxstepper.settings.checks import warn_of_ineffective
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.many_rollouts import roll_out
from jaxstepper.stepping.recording import Trajectory, record
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    blown_up_at,
    force_evaluations,
)
from jaxstepper.stepping.rule import Rule, scaled, symmetrized
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES
from jaxstepper.stepping.watch import Watch, watch_of_recorded

DEFAULT_STEPS = 1000
# Whoever names a model and none of these means its network to choose the steps.
WITHOUT_NETWORK = ("integrator_mode", "controller", "dt", "use_train_ic")
MANY = 30_000  # with so many particles, a step takes seconds


def run_simulate(request: Request) -> int:
    """`simulate`: rolls out and prints JSON; returns the exit code."""
    request, model = _with_model(request)
    request = Request(choose_seed(configure_jax(request.config)), request.sources)
    on_main(partial(check_output, request.config))
    tables = _simulated_tables(request, model)
    request = Request(with_shape_of(request.config, tables), request.sources)
    config = request.config
    gravity = make_gravity(config)
    _announce(request, model)
    if model is not None and rule_name(config) == "learned":
        asked = aimed_at(config) if aims_at_tolerance(config) else None
        warn_of_domain(model, str(config.model_path), tables, config.softening, asked)
    dtype = jnp.dtype(config.dtype)
    limits = [_limits(request, table) for table in tables]
    with _devices(config), open_wandb(config, "runner_simulate") as wandb_run:
        starts = [
            everywhere(from_table(table, gravity.acceleration, dtype))
            for table in everywhere(list(tables))
        ]
        began = time.perf_counter()
        if config.individual:
            outcomes, trajectories = take_individual_steps(request, model, gravity, starts, limits)
        else:
            outcomes, trajectories = _take_shared_steps(request, model, gravity, starts, limits)
        took = time.perf_counter() - began
        if config.output is not None:
            on_main(partial(_write, Path(config.output), trajectories))
        fine = [print_report(config, gravity, each, took, wandb_run) for each in outcomes]
        silent = [outcome for outcome in outcomes if not outcome.is_told_of]
        warn_of_errors(request, [float(outcome.watch.worst) for outcome in silent])
        if config.output is not None and config.wandb_artifacts:
            wandb_run.keep(Path(config.output).stem, "trajectory", Path(config.output))
    if config.movie:
        film = film_of(trajectories[0], np.asarray(starts[0].mass))
        where, how = movie_path(config), movie_options(config)
        on_main(partial(make_movie, film, where, how, config.quiet))
    return 0 if all(fine) else 1


@contextmanager
def _devices(config: Config) -> Iterator[None]:
    """Within it, the devices share what the run asks for."""
    if not config.shard:
        yield
        return
    with sharded() as mesh:
        note(f"the pairs of bodies are shared by {describe(mesh)}", quiet=config.quiet)
        yield


def _with_model(request: Request) -> tuple[Request, TrainedModel | None]:
    """Loads the model, if there is one; the request takes over its network and inputs."""
    config = request.config
    if config.model_path is None:
        if _needs_model(config):
            mode = f"--integrator-mode {config.integrator_mode}"
            rule = mode if config.controller is None else f"--controller {config.controller}"
            flag = "--use-train-ic" if config.use_train_ic else rule
            raise UserError(f"{flag} needs --model-path: a run, RUN/EPOCH, or a .pt file")
        return request, None
    model = load_model(config.model_path, config.checkpoint_dir)
    request = adopt(request, model.config, model.name)
    if not any(map(request.sets, WITHOUT_NETWORK)):
        request = request.replace(integrator_mode=learned_mode(request.config.history_len))
    if rule_name(request.config) != "learned":
        request = request.replace(scheme=config.scheme)  # that of the model goes with its network
    check_mode(request.config, model.name)
    return request, model


def learned_mode(history_len: int) -> str:
    """The integrator mode of a network that sees so many past states."""
    return "history" if history_len else "ml"


def _needs_model(config: Config) -> bool:
    return rule_name(config) == "learned" or config.use_train_ic


def _announce(request: Request, model: TrainedModel | None) -> None:
    """Warnings and notes before the rollout: its seed, what has no effect, and what is slow."""
    config = request.config
    warn_of_ineffective(request)
    if not config.use_train_ic:
        warn_of_unused_orbit(request, config.multi_orbit_sim)
    if _is_drawn(request) and not request.sets("seed"):
        note(f"seed {config.seed}", quiet=config.quiet)
    if request.sets("tolerance") and not aims_at_tolerance(config):
        note("--tolerance has no effect on this rule; --eta makes its steps shorter or longer")
    if model is not None and not _needs_model(config):
        note(f"dt is not the network's, {model.name} is not used; --controller learned follows it")
    if config.num_particles >= MANY:
        pairs = config.num_particles**2
        note(f"{config.num_particles} particles: every step sums {pairs:.0e} forces, and is slow")


def _is_drawn(request: Request) -> bool:
    """Whether the bodies are random."""
    config = request.config
    is_file = config.ic_path is not None or config.use_train_ic
    is_orbit = request.sets("eccentricity") or request.sets("semi_major")
    return not is_file and (config.multi_orbit_sim or not is_orbit)


def check_output(config: Config) -> None:
    """Checks that the trajectory and the movie that are asked for can be written.

    Raises:
        UserError: one of them cannot.
    """
    if config.output is not None:
        check_file_place(Path(config.output), f"--output {config.output}")
    if config.movie:
        check_movie(movie_path(config), movie_options(config))


def check_mode(config: Config, model: str) -> None:
    """Checks that the integrator mode is that of the model; `model` is its name.

    Raises:
        UserError: the modes differ.
    """
    if config.controller is not None:
        return
    if config.integrator_mode == "ml" and config.history_len > 0:
        raise UserError(
            f"--integrator-mode ml: {model} was trained with a history of "
            f"{config.history_len} states; use --integrator-mode history"
        )
    if config.integrator_mode == "history" and config.history_len == 0:
        raise UserError(
            f"--integrator-mode history: {model} was trained without a history; use "
            "--integrator-mode ml"
        )


def _simulated_tables(request: Request, model: TrainedModel | None) -> np.ndarray:
    config = request.config
    if not config.use_train_ic:
        return initial_tables(request, config.multi_orbit_sim)
    assert model is not None
    tables = model.initial_conditions
    if tables is None:
        raise UserError(f"--use-train-ic: {model.name} does not keep its initial conditions")
    check_tables(request, tables, f"{model.name} (--use-train-ic)")
    tables = tables if config.multi_orbit_sim else tables[:1]
    check_precision(tables, model.name, config.dtype, config.softening)
    return tables


def _make_rule(config: Config, gravity: Gravity, model: TrainedModel | None) -> Rule:
    rule = _plain_rule(config, gravity, model)
    return symmetrized(rule) if config.symmetrize else rule


def _plain_rule(config: Config, gravity: Gravity, model: TrainedModel | None) -> Rule:
    name = rule_name(config)
    if name == "learned":
        assert model is not None
        rule = rule_of_model(config, model, gravity)
        return rule if config.eta is None else scaled(rule, config.eta)
    eta = config.dt if name == "fixed" and config.dt > 0 else None
    rule = rules.by_name(name, gravity, config.eta or eta, config.power)
    return rule.on(SCHEMES[config.scheme])


def _limits(request: Request, table: np.ndarray) -> Limits:
    """Where a rollout ends: after --duration, else periods of a bound pair, else steps."""
    config = request.config
    if config.duration is not None:
        if request.sets("steps"):
            note("--duration decides; --steps is not used")
        return Limits(time=config.duration)
    period = orbital_period(table) if config.softening == 0 else None
    if period is not None and config.stop_at_period:
        return Limits(time=period)
    if period is not None and config.Nperiod > 0:
        if request.sets("steps"):
            note(
                f"a bound pair runs {config.Nperiod} periods (--Nperiod); "
                "--steps counts with --Nperiod 0"
            )
        return Limits(time=config.Nperiod * period)
    return Limits(steps=config.steps if config.steps > 0 else DEFAULT_STEPS)


def _take_shared_steps(
    request: Request,
    model: TrainedModel | None,
    gravity: Gravity,
    starts: list[Particles],
    limits: list[Limits],
) -> Outcomes:
    """Rolls out the rule of the request, whose steps all bodies of a system share."""
    config = request.config
    rule = everywhere(_make_rule(config, gravity, model))
    on_main(partial(check_size, config, rule, limits))
    mesh = choose_mesh(len(starts))
    with open_bars(config.quiet) as bars:
        tell = partial(bars.show_share, words_of_many(starts))
        tell(0.0)
        if config.output is not None or config.movie:
            ends, trajectories = _record(rule, gravity, starts, limits, tell)
        else:
            ends, trajectories = roll_out(mesh, rule, gravity, starts, limits, tell), []

    def outcome(first: Particles, end: Rollout, watch: Watch) -> Outcome:
        steps, searched = int(end.steps), int(rule.scheme.searched(end.carried))
        return Outcome(
            first,
            end.particles,
            steps,
            int(end.status),
            force_evaluations(rule, steps, searched),
            watch,
            partial(blown_up_at, rule, gravity, first, steps),
        )

    ended = [outcome(first, *end) for first, end in zip(starts, ends, strict=True)]
    return ended, trajectories


def _record(
    rule: Rule,
    gravity: Gravity,
    starts: list[Particles],
    limits: list[Limits],
    tell: Callable[[float], None],
) -> tuple[list[tuple[Rollout, Watch]], list[Trajectory]]:
    """As `roll_out`, but also records every state on the way."""
    recorded = [
        record(rule, gravity, start, limit, part_of(tell, i, len(starts)))
        for i, (start, limit) in enumerate(zip(starts, limits, strict=True))
    ]
    ends = [
        (rollout, watch_of_recorded(gravity, start, path))
        for start, (rollout, path) in zip(starts, recorded, strict=True)
    ]
    return ends, [path for _, path in recorded]


def _write(path: Path, trajectories: list[Trajectory]) -> None:
    """Writes rollouts; several get a leading axis, with NaN after the end of the shorter ones."""
    arrays = {
        name: _stack_padded([getattr(trajectory, name) for trajectory in trajectories])
        for name in Trajectory._fields
    }
    if len(trajectories) == 1:
        arrays = {name: array[0] for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"--output {path}: cannot be written ({error.strerror})") from error


def _stack_padded(arrays: list[np.ndarray]) -> np.ndarray:
    length = max(map(len, arrays))
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), math.nan, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
