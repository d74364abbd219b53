"""What is known of one run: the work it took, and its errors."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxstepper.evaluation.positions import position_error
from jaxstepper.evaluation.problems import Problem

UNITS = {"orbit": "orbit", "time": "unit of time"}
"""What evaluations are counted per, in words."""

# A run whose relative energy error exceeds this has failed, and ends.
FAILED_ABOVE = 1.0
LEAPFROG, LOGARITHMIC = "leapfrog", "logarithmic"
LEARNED = "learned"


@dataclass(frozen=True)
class Run:
    """One run of one system with one rule at one factor.

    Attributes:
        problem: its name.
        system: which of its systems.
        rule: its name.
        scheme: what took the steps.
        symmetrized: whether the rule was symmetrised.
        reversible: whether rule and scheme together are time-reversible.
        factor: multiplies its steps.
        steps: taken; of individual steps, the number of times at which bodies took any.
        force_evaluations: evaluations of all accelerations, everything included; of individual
            steps, pairs over N^2.
        evaluations_per_unit: those per unit of the problem, such as an orbit.
        unit: "orbit" or "time".
        max_error: largest relative energy error of any state, in any frame: |E - E0| / |E0| with
            energies about the barycentre, or relative to (T0 + |U0|) / 1000 where that is more than
            |E0|.
        median_error: its median over states.
        final_error: the error of the first state at or after the end.
        position_error: of that state, see `positions`; NaN where positions are not compared.
        judged_by: "energy" or "position": the error that counts on this problem.
        angular_momentum_error: largest |L - L0| / |L0| about the barycentre; NaN where L0 = 0 up
            to rounding.
        seconds: wall clock of the same run without measurements, alone or as its share of a batch;
            NaN if it was not timed.
        failed: why the run failed: "energy" (an error above 1 or not finite), "stalled" (steps too
            short to get anywhere) or "steps" (more than allowed); empty if it did not.
    """

    problem: str
    system: int
    rule: str
    scheme: str
    symmetrized: bool
    reversible: bool
    factor: float
    steps: int
    force_evaluations: float
    evaluations_per_unit: float
    unit: str
    max_error: float
    median_error: float
    final_error: float
    position_error: float
    judged_by: str
    angular_momentum_error: float
    seconds: float
    failed: str

    @property
    def error(self) -> float:
        """The error that counts; infinite if the run failed."""
        error = self.position_error if self.judged_by == "position" else self.max_error
        return math.inf if self.failed or math.isnan(error) else error


def run_of(
    problem: Problem,
    system: int,
    *,
    force_evaluations: float,
    time: float,
    position: Float[np.ndarray, "N D"],
    **others: Any,
) -> Run:
    """A run that was not timed.

    Args:
        problem: the systems.
        system: which of them.
        force_evaluations: in all.
        time: of its last state.
        position: of its bodies then.
        **others: fields of `Run` that do not follow from these.
    """
    return Run(
        problem=problem.name,
        system=system,
        force_evaluations=force_evaluations,
        evaluations_per_unit=force_evaluations / problem.units,
        unit=problem.unit,
        position_error=position_error(problem, system, time, position),
        judged_by=problem.judged_by,
        seconds=math.nan,
        **others,
    )


def label_of(rule: str, scheme: str, symmetrized: bool) -> str:
    """How a rule on a scheme is called; the leapfrog and a rule's own go without saying."""
    on = "" if scheme in (LEAPFROG, LOGARITHMIC, rule) else f" on {scheme}"
    return rule + on + (", symmetrized" if symmetrized else "")


def is_learned(rule: str) -> bool:
    """Whether a rule of this name is a trained network's."""
    return rule.partition(":")[0] == LEARNED
