"""What came of a rollout, and the line of JSON that tells it."""

import json
from collections.abc import Callable
from typing import NamedTuple

from jaxstepper.commands.rollout_words import words_of_failure, words_of_wrong_energy
from jaxstepper.machine.processes import is_main
from jaxstepper.physics.conservation import finite_or_none, report
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.note import note, result
from jaxstepper.reporting.wandb_run import WandbRun
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


def print_report(gravity: Gravity, outcome: Outcome, wandb_run: WandbRun) -> bool:
    """Prints the JSON line of a rollout, and what went wrong; returns whether nothing did."""
    steps, watch = outcome.steps, outcome.watch
    values = {
        "force_evaluations": outcome.force_evaluations,
        "end_time": finite_or_none(float(outcome.last.time)),
        "max_energy_error": finite_or_none(float(watch.worst)),
        **report(gravity, outcome.first, outcome.last, steps),
    }
    if is_main():
        result(json.dumps(values, allow_nan=False))
    wandb_run.log(values)
    if outcome.status >= STALLED:
        note(words_of_failure(outcome.last, steps, outcome.status, gravity.external is not None))
        return False
    if values["energy_final"] is None:
        step = outcome.blown_up_at()
        note(f"the rollout blew up: its energy is not finite after step {step} of {steps}")
        return False
    if watch.wrong_step > 0:
        note(words_of_wrong_energy(watch, steps))
        return False
    return True
