"""Methods of integration, as `evaluate` compares them: a rule on a scheme, or another code's."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jaxstepper.evaluation.curves import Curve, curves, factor_at
from jaxstepper.evaluation.measure import all_together, evaluate, share_of_all
from jaxstepper.evaluation.problems import Problem
from jaxstepper.evaluation.run import LEAPFROG, Run, label_of
from jaxstepper.evaluation.timing import seconds_of
from jaxstepper.stepping.rule import Rule

# How many systems of a problem are timed, one after the other.
TIMED_SYSTEMS = 3

Report = Callable[[float], None]
System = tuple[Problem, int]
"""One of the systems of a problem."""


@dataclass(frozen=True)
class Method:
    """A method for problems of one kind.

    Attributes:
        rule: the name of what chooses the steps.
        scheme: the name of what takes them.
        symmetrized: whether the rule is symmetrised.
    """

    rule: str
    scheme: str = LEAPFROG
    symmetrized: bool = False

    @property
    def label(self) -> str:
        """How the method is called in tables."""
        return label_of(self.rule, self.scheme, self.symmetrized)

    @property
    def evaluations(self) -> int:
        """Of the accelerations, in a step."""
        return 1

    def runs(
        self,
        problems: Sequence[Problem],
        factors: Sequence[float],
        max_steps: int,
        enough: float,
        report: Report,
    ) -> Iterator[Run]:
        """Runs of all systems with every factor; see `measure.evaluate`.

        Factors go one after the other, from the largest, until errors are small enough; those of a
        few systems of few bodies all run, as `measure.evaluate` runs them side by side.
        """
        systems = [(problem, i) for problem in problems for i in range(len(problem.tables))]
        for done, factor in enumerate(sorted(factors, reverse=True)):
            share = partial(share_of_all, report, done / len(factors), 1 / len(factors))
            found = self.runs_at(systems, factor, max_steps, share)
            yield from found
            small = np.median([run.error for run in found]) <= enough
            if small and not all_together(problems, len(factors)):
                break

    def runs_at(
        self, systems: Sequence[System], factor: float, max_steps: int, report: Report
    ) -> list[Run]:
        """Runs of systems with one factor, in their order."""
        raise NotImplementedError

    def seconds(
        self, problem: Problem, systems: Sequence[int], factor: float, max_steps: int
    ) -> float:
        """Wall-clock seconds of runs, all together, without measurements and without compiling.

        A run is alone; several are a batch where the method has batches, else one after the other.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class RuleMethod(Method):
    """A rule on its scheme.

    Attributes:
        chosen: the rule at factor 1, made for the softening of the problems.
    """

    chosen: Rule | None = None

    @property
    def evaluations(self) -> int:
        assert self.chosen is not None
        return self.chosen.scheme.evaluations

    def runs(
        self,
        problems: Sequence[Problem],
        factors: Sequence[float],
        max_steps: int,
        enough: float,
        report: Report,
    ) -> Iterator[Run]:
        assert self.chosen is not None
        return evaluate(
            self.chosen, self.rule, self.symmetrized, problems, factors, max_steps, report, enough
        )

    def seconds(
        self, problem: Problem, systems: Sequence[int], factor: float, max_steps: int
    ) -> float:
        assert self.chosen is not None
        return seconds_of(self.chosen, problem, systems, factor, max_steps)


def timed(
    method: Method,
    problems: Sequence[Problem],
    runs: Sequence[Run],
    targets: Sequence[float],
    max_steps: int,
    batch: int = 1,
) -> list[Run]:
    """The runs, with the seconds of those at the factors that reach the targets.

    They run again. Of every problem the first three systems are timed, alone and one after the
    other, or so many as are in a batch, over and over if the problem has fewer; then a run's
    seconds are its share of those of all, by evaluations. If no target is reached, that is at the
    smallest factor.
    """
    by_name = {problem.name: problem for problem in problems}
    chosen = {(curve.problem, factor) for curve in curves(runs) for factor in _near(curve, targets)}
    found: dict[Run, float] = {}
    for name, factor in sorted(chosen, reverse=True):
        mine = [run for run in runs if (run.problem, run.factor) == (name, factor)]
        together = [mine[i % len(mine)] for i in range(batch)]
        for group in [together] if batch > 1 else [[run] for run in mine[:TIMED_SYSTEMS]]:
            systems = [run.system for run in group]
            seconds = method.seconds(by_name[name], systems, factor, max_steps)
            work = sum(run.force_evaluations for run in group)
            found |= {run: seconds * run.force_evaluations / work for run in group}
    return [replace(run, seconds=found.get(run, run.seconds)) for run in runs]


def _near(curve: Curve, targets: Sequence[float]) -> set[float]:
    found = {factor_at(curve, target) for target in targets} - {None}
    return {factor for factor in found if factor is not None} or {float(curve.factors[-1])}
