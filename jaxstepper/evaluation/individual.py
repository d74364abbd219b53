"""Individual steps beside the shared ones, measured and timed in the same way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.evaluation.method import Method, Report, System
from jaxstepper.evaluation.problems import Problem
from jaxstepper.evaluation.run import FAILED_ABOVE, Run, run_of
from jaxstepper.evaluation.timing import fastest
from jaxstepper.physics.diagnostics import (
    angular_momentum,
    angular_momentum_scale,
    barycentric,
)
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.stepping.criteria import DEFAULT_ETA, Aarseth, Criterion
from jaxstepper.stepping.individual import longest_step, run_individual
from jaxstepper.stepping.individual_rollouts import Watched, roll_out_individually
from jaxstepper.stepping.individual_state import at_common_time, evaluations
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.status import NOT_FINITE, STALLED

AARSETH, INDIVIDUAL_HERMITE = "aarseth", "hermite, individual"


def with_longer_steps(criterion: Any, factor: float) -> Criterion:
    """A criterion whose steps go as the square root of its eta, with steps longer by a factor."""
    return replace(criterion, eta=criterion.eta * factor**2)


def aarseth(factor: float) -> Criterion:
    """Aarseth's criterion, whose steps are longer by a factor."""
    return with_longer_steps(Aarseth(DEFAULT_ETA), factor)


@dataclass(frozen=True)
class IndividualMethod(Method):
    """Individual steps of Hermite's scheme.

    Evaluations are pairs over N^2. Errors are those where all bodies meet, after every
    `longest_step`: each eighth of a Henon unit of time, or more often.

    Attributes:
        criterion: the criterion whose steps are longer by a factor.
    """

    rule: str = AARSETH
    scheme: str = INDIVIDUAL_HERMITE
    criterion: Callable[[float], Criterion] = aarseth

    def seconds(
        self, problem: Problem, systems: Sequence[int], factor: float, max_steps: int
    ) -> float:
        gravity, criterion = Gravity(problem.softening), self.criterion(factor)
        starts = [_start(problem, system)[0] for system in systems]
        longest = [_longest(gravity, first, problem.end_time) for first in starts]

        def alone(end_time: float) -> None:
            end = jnp.asarray(end_time, starts[0].time.dtype)
            jax.block_until_ready(run_individual(criterion, gravity, starts[0], end, longest[0]))

        def together(end_time: float) -> None:
            ends = [end_time] * len(starts)
            roll_out_individually(None, criterion, gravity, starts, ends, longest)

        run = alone if len(starts) == 1 else together
        run(0.0)
        return fastest(partial(run, problem.end_time))

    def runs_at(
        self, systems: Sequence[System], factor: float, max_steps: int, report: Report
    ) -> list[Run]:
        gravity = Gravity(systems[0][0].softening)
        starts = [_start(problem, system)[0] for problem, system in systems]
        ends = [problem.end_time for problem, _ in systems]
        longest = [_longest(gravity, *each) for each in zip(starts, ends, strict=True)]
        ended, paths = roll_out_individually(
            None,
            self.criterion(factor),
            gravity,
            starts,
            ends,
            longest,
            report,
            keep=True,
        )
        return [
            self._run(*system, factor, start, watched, path)
            for system, start, watched, path in zip(systems, starts, ended, paths, strict=True)
        ]

    def _run(
        self,
        problem: Problem,
        system: int,
        factor: float,
        start: Particles,
        watched: Watched,
        path: Trajectory,
    ) -> Run:
        state, watch = watched
        end, gravity = at_common_time(state), Gravity(problem.softening)
        errors = np.abs(path.energy - path.energy[0])[1:] / float(watch.initial.scale)
        worst = float(watch.worst)
        failed = "" if worst <= FAILED_ABOVE and state.status != NOT_FINITE else "energy"
        return run_of(
            problem,
            system,
            time=float(end.time),
            position=np.asarray(end.position),
            rule=self.rule,
            scheme=self.scheme,
            symmetrized=False,
            reversible=False,
            factor=factor,
            steps=int(state.steps),
            force_evaluations=evaluations(state) / len(problem.tables[system]),
            max_error=worst,
            median_error=float(np.median(errors)) if len(errors) else math.nan,
            final_error=float(errors[-1]) if len(errors) else math.nan,
            angular_momentum_error=_spin_error(start, end, gravity),
            failed="stalled" if state.status == STALLED else failed,
        )


def _start(problem: Problem, system: int) -> tuple[Particles, Gravity]:
    gravity = Gravity(problem.softening)
    table = jnp.asarray(problem.tables[system])
    return from_table(table, gravity.acceleration, table.dtype), gravity


def _longest(gravity: Gravity, first: Particles, end_time: float) -> float:
    """`longest_step`, shortened to divide the time, so that no short block adds an evaluation."""
    span = abs(end_time - float(first.time))
    return span / max(1, math.ceil(span / longest_step(gravity, first, end_time) - 1e-9))


def _spin_error(start: Particles, end: Particles, gravity: Gravity) -> float:
    """|L - L0| / |L0| about the barycentre."""
    before, after = (angular_momentum(barycentric(p, gravity)) for p in (start, end))
    return float(jnp.linalg.norm(after - before) / angular_momentum_scale(start, gravity))
