"""What `simulate --individual` does: each body takes steps of its own."""

import math
from functools import partial

from jaxstepper.commands.clock_checks import check_counts
from jaxstepper.commands.outcome import Outcome, Outcomes, words_of_many
from jaxstepper.commands.output_size import check_recording
from jaxstepper.commands.recorder import Plan, open_recorder
from jaxstepper.machine.devices import choose_mesh, everywhere
from jaxstepper.machine.processes import on_main
from jaxstepper.physics.gravity import Gravity
from jaxstepper.reporting.bars import open_bars
from jaxstepper.reporting.note import note
from jaxstepper.runs.models import TrainedModel, criterion_of_model
from jaxstepper.settings.config import Config
from jaxstepper.stepping.criteria import DEFAULT_ETA, Aarseth, Criterion
from jaxstepper.stepping.individual import longest_step
from jaxstepper.stepping.individual_rollouts import (
    begin_individually,
    gone_on,
    record_individually,
)
from jaxstepper.stepping.individual_state import (
    at_common_time,
    evaluations,
    where_it_stopped,
)
from jaxstepper.stepping.output import Going
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.status import ENDED
from jaxstepper.stepping.watch import look


def take_individual_steps(plan: Plan, model: TrainedModel | None) -> Outcomes:
    """Rolls out the criterion of the request, that of the model if it is learned.

    Raises:
        UserError: a rollout has no time at which it ends, the model is for shared steps, or a file
            cannot be written.
    """
    config, gravity, starts = plan.config, plan.gravity, plan.starts
    ends = [float(limit.time) for limit in plan.limits]
    if not all(map(math.isfinite, ends)):
        rule = "needs --duration T: where each body has its own steps, --steps ends nothing"
        raise plan.request.refusal("individual", rule)
    longest = [
        config.dt if config.dt > 0 else longest_step(gravity, first, end)
        for first, end in zip(starts, ends, strict=True)
    ]
    most = [math.ceil(span / dt) for span, dt in zip(plan.spans, longest, strict=True)]
    if config.dt > 0:
        check_counts(plan.request, config.dt, plan.spans)
    on_main(partial(check_recording, config, plan.limits, most))
    criterion = everywhere(_criterion(config, model))
    mesh = choose_mesh(len(starts))
    paths: list[Trajectory] = []
    with open_bars(config.quiet) as bars:
        tell = partial(bars.show_share, words_of_many(starts))
        tell(0.0)
        goings = begin_individually(criterion, gravity, starts, ends, longest)
        if plan.is_recorded:
            times = [plan.times(i) for i in range(len(starts))]
            with open_recorder(plan, tell, bars.close) as recorder:
                goings = [
                    gone_on(plan.going(i, each), end)
                    for i, (each, end) in enumerate(zip(goings, ends, strict=True))
                ]
                if plan.source is not None:
                    _say_if_longest_differ(plan, goings, longest)
                recorder.begin(goings)
                at_times = [each for each in times if each is not None]
                goings = record_individually(
                    mesh,
                    criterion,
                    gravity,
                    goings,
                    recorder.keep,
                    at_times or None,
                    recorder.report,
                )
            paths = recorder.paths()
        else:
            goings = record_individually(mesh, criterion, gravity, goings, report=tell)
    return [_outcome(gravity, each) for each in goings], paths


def _say_if_longest_differ(plan: Plan, goings: list[Going], longest: list[float]) -> None:
    """Notes that the whole rollout in one would have had other longest steps."""
    for going, wanted in zip(goings, longest, strict=True):
        kept = abs(float(going.rollout.length))
        if not math.isclose(kept, wanted, rel_tol=1e-6):
            end, dt = float(going.rollout.end), f"--dt {kept!r}"
            note(
                f"no step is longer than {kept:g}, as in {plan.config.restart}; a run to {end:g} "
                f"in one has {wanted:g}, unless {dt}",
                quiet=plan.config.quiet,
            )
            return


def _criterion(config: Config, model: TrainedModel | None) -> Criterion:
    if config.controller == "learned":
        assert model is not None
        return criterion_of_model(config, model, config.eta)
    return Aarseth(DEFAULT_ETA if config.eta is None else config.eta)


def _outcome(gravity: Gravity, going: Going) -> Outcome:
    first, end, watch = going
    last = at_common_time(end)
    if int(end.status) != ENDED:  # between the ends of blocks, where the energy is watched
        last = where_it_stopped(end)
        watch = look(gravity, watch, last, end.steps)
    return Outcome(
        first,
        last,
        int(end.steps),
        int(end.status),
        evaluations(end) / len(first.mass),
        watch,
        lambda: int(watch.wrong_step),
    )
