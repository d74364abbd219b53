"""What came of a rollout, and the line of JSON that tells it."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxstepper.commands.rollout_words import (
    rule_name,
    words_of_blow_up,
    words_of_failure,
    words_of_wrong_energy,
)
from jaxstepper.machine.processes import is_main
from jaxstepper.physics.conservation import finite_or_none, report
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.note import note, result
from jaxstepper.reporting.wandb_run import WandbRun
from jaxstepper.settings.config import Config
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.status import STALLED
from jaxstepper.stepping.watch import Watch


class Outcome(NamedTuple):
    """What came of a rollout.

    Attributes:
        first: the state before the first step.
        last: the state after the last step.
        steps: how many were taken.
        status: one of the codes of `status`.
        force_evaluations: of the accelerations of all bodies.
        watch: the energy errors on the way.
        blown_up_at: finds the step after which the energy is not finite, given that it ends so.
    """

    first: Particles
    last: Particles
    steps: int
    status: int
    force_evaluations: float
    watch: Watch
    blown_up_at: Callable[[], int]

    @property
    def is_told_of(self) -> bool:
        """Whether its report says what went wrong."""
        return self.status >= STALLED or bool(self.watch.wrong_step > 0)


Outcomes = tuple[list[Outcome], list[Trajectory]]
"""Those of several rollouts, and what was recorded of each, if anything."""


def words_of_many(starts: list[Particles]) -> str:
    """What a bar of progress calls rollouts."""
    return f"{len(starts)} rollouts" if len(starts) > 1 else "rollout"


def print_report(
    config: Config,
    gravity: Gravity,
    outcome: Outcome,
    wall_time: float,
    wandb_run: WandbRun,
    units: Mapping[str, Any],
) -> bool:
    """Prints the JSON line of a rollout, and what went wrong; returns whether nothing did.

    `wall_time` is that of all rollouts of the command, compiling included, in seconds; `units` is
    what the line says of them.
    """
    steps, watch = outcome.steps, outcome.watch
    values = {
        "rule": rule_name(config),
        "scheme": config.scheme,
        "wall_time": round(wall_time, 3),
        "force_evaluations": outcome.force_evaluations,
        "end_time": finite_or_none(float(outcome.last.time)),
        "max_energy_error": finite_or_none(float(watch.worst)),
        **report(gravity, outcome.first, outcome.last, steps),
        **units,
    }
    if is_main():
        result(json.dumps(values, allow_nan=False))
    wandb_run.log({name: value for name, value in values.items() if name not in units})
    if outcome.status >= STALLED:
        note(words_of_failure(outcome.last, steps, outcome.status, config))
        return False
    if values["energy_final"] is None:
        step = outcome.blown_up_at()
        note(words_of_blow_up(step, steps, config))
        return False
    if watch.wrong_step > 0:
        note(words_of_wrong_energy(watch, steps, config))
        return False
    return True
