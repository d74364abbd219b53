"""Integrators of rebound beside the rules. Only this module imports rebound."""

import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist

from jaxstepper.evaluation.method import Method, Report, System
from jaxstepper.evaluation.problems import Problem
from jaxstepper.evaluation.run import FAILED_ABOVE, LEAPFROG, Run, run_of
from jaxstepper.evaluation.timing import fastest
from jaxstepper.physics.diagnostics import SMALL_FRACTION

IAS15, REBOUND_LEAPFROG = "ias15", "rebound-leapfrog"
# rebound's default tolerance; the step goes as its seventh root.
EPSILON = 1e-9
ORDER = 7
# The constant step at factor 1, that of the rule `fixed`.
DT = 0.01
# With more bodies, the energy would cost more than the steps.
EVERY_STEP_UP_TO, STEPS_BETWEEN = 64, 16


def is_installed() -> bool:
    """Whether the package rebound is installed."""
    return importlib.util.find_spec("rebound") is not None


@dataclass(frozen=True)
class ReboundMethod(Method):
    """An integrator of rebound."""

    def runs_at(
        self, systems: Sequence[System], factor: float, max_steps: int, report: Report
    ) -> list[Run]:
        """Runs of systems with one factor, one after the other.

        Every evaluation that rebound makes counts: in IAS15 seven per iteration of a step, those of
        rejected steps included. The energy is measured at every step, with more than 64 bodies at
        every sixteenth.
        """
        found = []
        for i, (problem, system) in enumerate(systems, 1):
            with warnings.catch_warnings():
                # Long steps are bound to make predictor-corrector loops that do not converge.
                warnings.simplefilter("ignore", RuntimeWarning)
                found.append(self._run(problem, system, factor, max_steps))
            report(i / len(systems))
        return found

    def seconds(
        self, problem: Problem, systems: Sequence[int], factor: float, max_steps: int
    ) -> float:
        def run() -> None:
            for system in systems:
                simulation = self._start(problem, system, factor)
                simulation.integrate(problem.end_time, exact_finish_time=0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return fastest(run)

    def _start(self, problem: Problem, system: int, factor: float) -> Any:
        raise NotImplementedError

    def _run(self, problem: Problem, system: int, factor: float, max_steps: int) -> Run:
        simulation = self._start(problem, system, factor)
        watch, steps = _Watch(simulation), 0
        between = 1 if simulation.N <= EVERY_STEP_UP_TO else STEPS_BETWEEN
        while simulation.t < problem.end_time and not watch.failed and steps < max_steps:
            simulation.steps(1)
            steps += 1
            if steps % between == 0 or steps == max_steps or simulation.t >= problem.end_time:
                watch.look(simulation)
        capped = "steps" if steps >= max_steps else ""
        centre = _centre(problem.tables[system], simulation.t)
        return run_of(
            problem,
            system,
            time=simulation.t,
            position=_positions(simulation)[:, : len(centre)] + centre,
            rule=self.rule,
            scheme=self.scheme,
            symmetrized=False,
            reversible=self.scheme == LEAPFROG,
            factor=factor,
            steps=steps,
            force_evaluations=watch.evaluations,
            max_error=float(np.max(watch.errors)),
            median_error=float(np.median(watch.errors)),
            final_error=float(watch.errors[-1]),
            angular_momentum_error=watch.spin_error,
            failed="energy" if watch.failed else capped,
        )


class _Watch:
    """The errors of a simulation so far, and its evaluations of forces."""

    def __init__(self, simulation: Any) -> None:
        kinetic, potential = _energies(simulation)
        self.energy, self.spin = kinetic + potential, np.array(simulation.angular_momentum())
        self.scale = max(abs(self.energy), SMALL_FRACTION * (kinetic + abs(potential)))
        self.errors: list[float] = []
        self.largest_turn, self.evaluations = 0.0, 0
        simulation.additional_forces = self._count

    def _count(self, _: Any) -> None:
        self.evaluations += 1

    def look(self, simulation: Any) -> None:
        self.errors.append(abs(_energy(simulation) - self.energy) / self.scale)
        turn = np.linalg.norm(np.array(simulation.angular_momentum()) - self.spin)
        self.largest_turn = max(self.largest_turn, float(turn))

    @property
    def failed(self) -> bool:
        return bool(self.errors) and not self.errors[-1] <= FAILED_ABOVE

    @property
    def spin_error(self) -> float:
        size = float(np.linalg.norm(self.spin))
        return self.largest_turn / size if size else math.nan


@dataclass(frozen=True)
class Ias15(ReboundMethod):
    """IAS15 with the step size of Pham, Rein & Spiegel 2024, rebound's default, times a factor."""

    rule: str = IAS15
    scheme: str = IAS15

    def _start(self, problem: Problem, system: int, factor: float) -> Any:
        simulation = _simulation(problem, problem.tables[system], "ias15")
        # rebound 5 keeps an integrator's settings on the integrator, rebound 4 on the simulation.
        settings = getattr(simulation, "ri_ias15", simulation.integrator)
        settings.epsilon = EPSILON * factor**ORDER
        return simulation


@dataclass(frozen=True)
class ReboundLeapfrog(ReboundMethod):
    """rebound's leapfrog, drift-kick-drift with a constant step."""

    rule: str = REBOUND_LEAPFROG

    def _start(self, problem: Problem, system: int, factor: float) -> Any:
        simulation = _simulation(problem, problem.tables[system], "leapfrog")
        simulation.dt = DT * factor
        return simulation


def _simulation(problem: Problem, table: np.ndarray, integrator: str) -> Any:
    import rebound

    simulation = rebound.Simulation()
    simulation.integrator = integrator
    simulation.softening = problem.softening
    dim = (table.shape[1] - 1) // 2
    axes = "xyz"[:dim]
    for mass, *rest in table:
        position = dict(zip(axes, rest[:dim], strict=True))
        velocity = dict(zip((f"v{axis}" for axis in axes), rest[dim:], strict=True))
        simulation.add(m=mass, **position, **velocity)
    # Errors are about the barycentre; the motion does not change.
    simulation.move_to_com()
    return simulation


def _centre(table: np.ndarray, time: float) -> np.ndarray:
    """Where the barycentre of a table is after some time, `[D]`."""
    x, v = np.split(table[:, 1:], 2, axis=1)
    centre: np.ndarray = table[:, 0] @ (x + v * time) / table[:, 0].sum()
    return centre


def _positions(simulation: Any) -> np.ndarray:
    x = np.empty((simulation.N, 3))
    simulation.serialize_particle_data(xyz=x)
    return x


def _energy(simulation: Any) -> float:
    """The energy of the softened force; `Simulation.energy` ignores the softening."""
    if simulation.softening == 0:
        return float(simulation.energy())
    return sum(_energies(simulation))


def _energies(simulation: Any) -> tuple[float, float]:
    """The kinetic and the potential energy, softened as the force is."""
    mass, x, v = np.empty(simulation.N), np.empty((simulation.N, 3)), np.empty((simulation.N, 3))
    simulation.serialize_particle_data(m=mass, xyz=x, vxvyvz=v)
    kinetic = 0.5 * mass @ np.sum(v * v, axis=1)
    first, second = np.triu_indices(len(mass), k=1)
    distance = np.hypot(pdist(x), simulation.softening)
    potential = -np.sum(mass[first] * mass[second] / distance)
    return float(kinetic), float(potential)
