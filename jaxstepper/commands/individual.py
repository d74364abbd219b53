"""What `simulate --individual` does: each body takes steps of its own."""

import math
from functools import partial

from jaxstepper.commands.outcome import Outcome, Outcomes, words_of_many
from jaxstepper.commands.output_size import check_recording
from jaxstepper.machine.devices import choose_mesh, everywhere
from jaxstepper.machine.processes import on_main
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.bars import open_bars
from jaxstepper.runs.models import TrainedModel, criterion_of_model
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping.criteria import DEFAULT_ETA, Aarseth, Criterion
from jaxstepper.stepping.individual import longest_step
from jaxstepper.stepping.individual_rollouts import roll_out_individually
from jaxstepper.stepping.individual_state import (
    Individual,
    at_common_time,
    evaluations,
    where_it_stopped,
)
from jaxstepper.stepping.rollout import Limits
from jaxstepper.stepping.status import ENDED
from jaxstepper.stepping.watch import Watch


def take_individual_steps(
    request: Request,
    model: TrainedModel | None,
    gravity: Gravity,
    starts: list[Particles],
    limits: list[Limits],
) -> Outcomes:
    """Rolls out the criterion of the request, that of the model if it is learned.

    Raises:
        UserError: a rollout has no time at which it ends, or the model is for shared steps.
    """
    config = request.config
    ends = [float(limit.time) for limit in limits]
    if not all(map(math.isfinite, ends)):
        rule = "needs --duration T: where each body has its own steps, --steps ends nothing"
        raise request.refusal("individual", rule)
    longest = [
        config.dt if config.dt > 0 else longest_step(gravity, first, end)
        for first, end in zip(starts, ends, strict=True)
    ]
    spans = [abs(end - config.start_time) for end in ends]
    most = max(math.ceil(span / dt) for span, dt in zip(spans, longest, strict=True))
    on_main(partial(check_recording, config, most, len(starts)))
    criterion = everywhere(_criterion(config, model))
    with open_bars(config.quiet) as bars:
        tell = partial(bars.show_share, words_of_many(starts))
        tell(0.0)
        keep = config.output is not None or config.movie
        mesh = choose_mesh(len(starts))
        ended, trajectories = roll_out_individually(
            mesh, criterion, gravity, starts, ends, longest, tell, keep
        )
    outcomes = [_outcome(first, *end) for first, end in zip(starts, ended, strict=True)]
    return outcomes, trajectories


def _criterion(config: Config, model: TrainedModel | None) -> Criterion:
    if config.controller == "learned":
        assert model is not None
        return criterion_of_model(config, model, config.eta)
    return Aarseth(DEFAULT_ETA if config.eta is None else config.eta)


def _outcome(first: Particles, end: Individual, watch: Watch) -> Outcome:
    last = at_common_time(end) if int(end.status) == ENDED else where_it_stopped(end)
    return Outcome(
        first,
        last,
        int(end.steps),
        int(end.status),
        evaluations(end) / len(first.mass),
        watch,
        lambda: int(watch.wrong_step),
    )
