"""What `simulate` does, once its arguments are known to be good."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxstepper.commands.clock_checks import check_times
from jaxstepper.commands.derivative_checks import check_derivatives
from jaxstepper.commands.individual import take_individual_steps
from jaxstepper.commands.movies import movie_options, movie_path
from jaxstepper.commands.outcome import print_report
from jaxstepper.commands.recorder import Plan
from jaxstepper.commands.restart import read_source
from jaxstepper.commands.rollout_words import (
    aimed_at,
    aims_at_tolerance,
    rule_name,
    warn_of_domain,
    warn_of_errors,
    warn_of_unbound,
)
from jaxstepper.commands.run_artifacts import open_wandb
from jaxstepper.commands.shared_steps import take_shared_steps
from jaxstepper.errors import UserError, require
from jaxstepper.machine.devices import describe, everywhere, sharded
from jaxstepper.machine.processes import on_main
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import orbital_period
from jaxstepper.physics.particles import from_table
from jaxstepper.physics.precision import check_precision
from jaxstepper.physics.tables import Bodies
from jaxstepper.pictures.film import film_of
from jaxstepper.pictures.movies import check_movie, make_movie
from jaxstepper.reporting.note import note
from jaxstepper.runs.bodies import check_tables, initial_bodies, warn_of_unused_orbit, with_shape_of
from jaxstepper.runs.jax_setup import choose_seed, configure_jax
from jaxstepper.runs.models import TrainedModel, load_model, rule_of_model
from jaxstepper.runs.places import check_file_place
from jaxstepper.runs.plans import adopt, make_gravity
from jaxstepper.runs.recordings import check_going_on
from jaxstepper.runs.units import (
    attracting,
    massive,
    units_differ,
    units_in_words,
    units_of,
    with_G_of_units,
)
from jaxstepper.settings.checks import warn_of_ineffective
from jaxstepper.settings.config import DERIVATIVES, NATIVE_FEATURES, Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.rollout import Limits
from jaxstepper.stepping.rule import Rule, scaled, symmetrized
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES

DEFAULT_STEPS = 1000
# Whoever names a model and none of these means its network to choose the steps.
WITHOUT_NETWORK = ("integrator_mode", "controller", "dt", "use_train_ic")
MANY = 30_000  # with so many particles, a step takes seconds


def run_simulate(request: Request) -> int:
    """`simulate`: rolls out and prints JSON; returns the exit code."""
    source = None if request.config.restart is None else read_source(request)
    request = request if source is None else source.request(request)
    request, model = _with_model(with_G_of_units(request))
    request = Request(choose_seed(configure_jax(request.config)), request.sources)
    on_main(partial(check_output, request.config))
    tables, names = _simulated_bodies(request, model) if source is None else source.bodies
    request = Request(with_shape_of(request.config, tables), request.sources)
    config = request.config
    gravity = make_gravity(config)
    _announce(request, model, tables)
    suits = config.individual == (config.feature_type == DERIVATIVES)  # else it is refused below
    if model is not None and suits and rule_name(config) == "learned":
        asked = aimed_at(config) if aims_at_tolerance(config) else None
        seen = attracting(tables, config.G)
        warn_of_domain(model, str(config.model_path), seen, config.softening, asked)
    dtype, begin = jnp.dtype(config.dtype), config.start_time
    limits = [_limits(request, table) for table in tables]
    _check_drift(config, tables, limits)
    if source is not None:
        check_going_on(source.recording, limits, source.path, config.output)
    with _devices(config), open_wandb(config, "runner_simulate") as wandb_run:
        starts = [
            everywhere(from_table(table, gravity.acceleration, dtype, begin))
            for table in everywhere(list(tables))
        ]
        check_derivatives(config, gravity, starts)
        plan = Plan(request, gravity, starts, limits, names, source)
        began = time.perf_counter()
        if config.individual:
            outcomes, trajectories = take_individual_steps(plan, model)
        else:
            rule = everywhere(_make_rule(config, gravity, model))
            outcomes, trajectories = take_shared_steps(plan, rule)
        took, units = time.perf_counter() - began, units_in_words(config)
        fine = [print_report(config, gravity, each, took, wandb_run, units) for each in outcomes]
        silent = [outcome for outcome in outcomes if not outcome.is_told_of]
        warn_of_errors(request, [float(outcome.watch.worst) for outcome in silent])
        if config.output is not None and config.wandb_artifacts:
            wandb_run.keep(Path(config.output).stem, "trajectory", Path(config.output))
    if config.movie:
        of = units_of(config)
        shown = None if of is None else of.names
        film = film_of(trajectories[0], np.asarray(starts[0].mass), shown, names)
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


def _announce(request: Request, model: TrainedModel | None, tables: np.ndarray) -> None:
    """Warnings and notes before the rollout: its seed, its units, what has no effect or is slow."""
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
    units = units_of(config)
    if units is not None and units.time_in_words != units.time:
        note(f"time is in {units.time_in_words}", quiet=config.quiet)
    if model is not None and _needs_model(config):
        is_native = config.feature_type in NATIVE_FEATURES
        if not is_native and units_differ(config, model.config):
            note(
                f"warning: the network of {model.name} depends on units, and was trained in others "
                "(--units, --G); one with scale-free inputs, such as kepler, does not"
            )
    if config.ic_path is not None and config.external_field_mass is None:
        attracted = attracting(tables, config.G)
        warn_of_unbound(config.ic_path, attracted, config.softening, config.G)
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


def _simulated_bodies(request: Request, model: TrainedModel | None) -> Bodies:
    config = request.config
    if not config.use_train_ic:
        return initial_bodies(request, config.multi_orbit_sim)
    assert model is not None
    tables = model.initial_conditions
    if tables is None:
        raise UserError(f"--use-train-ic: {model.name} does not keep its initial conditions")
    check_tables(request, tables, f"{model.name} (--use-train-ic)")
    tables = tables if config.multi_orbit_sim else tables[:1]
    check_precision(tables, model.name, config.dtype, config.softening)
    return Bodies(massive(tables, config.G))  # a run keeps masses G m


def _make_rule(config: Config, gravity: Gravity, model: TrainedModel | None) -> Rule:
    rule = _plain_rule(config, gravity, model)
    return symmetrized(rule) if config.symmetrize else rule


def _plain_rule(config: Config, gravity: Gravity, model: TrainedModel | None) -> Rule:
    name = rule_name(config)
    if name == "learned":
        assert model is not None
        rule = rule_of_model(config, model, gravity)
        return rule if config.eta is None else scaled(rule, config.eta)
    require(not config.distill, f"--distill: is for a trained network, not for {name}")
    eta = config.dt if name == "fixed" and config.dt > 0 else None
    rule = rules.by_name(name, gravity, config.eta or eta, config.power)
    return rule.on(SCHEMES[config.scheme])


def _check_drift(config: Config, tables: np.ndarray, limits: list[Limits]) -> None:
    """Refuses bodies that drift so far from the origin that rounding will spoil their energy.

    Raises:
        UserError: they do.
    """
    if config.external_field_mass is not None:
        return
    moved, dim = tables.copy(), (tables.shape[2] - 1) // 2
    spans = np.array([float(limit.time) - config.start_time for limit in limits])
    share = tables[..., :1] / tables[..., :1].sum(axis=1, keepdims=True)
    drift = np.sum(share * tables[..., 1 + dim :], axis=1, keepdims=True)
    moved[..., 1 : 1 + dim] += drift * np.where(np.isfinite(spans), spans, 0.0)[:, None, None]
    where = f"{config.ic_path or 'the bodies'}, moved to their end"
    check_precision(attracting(moved, config.G), where, config.dtype, config.softening)


def _limits(request: Request, table: np.ndarray) -> Limits:
    """Where a rollout ends: after --duration, else periods of a bound pair, else steps."""
    config = request.config
    way = -1 if config.backwards else 1

    def after(duration: float) -> Limits:
        check_times(request, duration)
        return Limits(time=config.start_time + way * duration)

    if config.duration is not None:
        if request.sets("steps"):
            note("--duration decides; --steps is not used")
        return after(config.duration)
    period = orbital_period(attracting(table, config.G)) if config.softening == 0 else None
    period = None if config.restart is not None else period
    if period is not None and config.stop_at_period:
        return after(period)
    if period is not None and config.Nperiod > 0:
        if request.sets("steps"):
            note(
                f"a bound pair runs {config.Nperiod} periods (--Nperiod); "
                "--steps counts with --Nperiod 0"
            )
        return after(config.Nperiod * period)
    steps = config.steps if config.steps > 0 else DEFAULT_STEPS
    return Limits(time=way * math.inf, steps=steps)
