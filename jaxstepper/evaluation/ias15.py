"""rebound's IAS15, a reference for the step-size rules. Only this module imports rebound."""

import importlib.util
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxstepper.evaluation.measure import FAILED_ABOVE, Run
from jaxstepper.evaluation.problems import Problem
from jaxstepper.physics.diagnostics import SMALL_FRACTION

NAME = "ias15"
# rebound's default tolerance; the step goes as its seventh root.
EPSILON = 1e-9
ORDER = 7


def is_installed() -> bool:
    """Whether the package rebound is installed."""
    return importlib.util.find_spec("rebound") is not None


def ias15(problem: Problem, factors: Sequence[float], max_steps: int) -> Iterator[Run]:
    """Runs IAS15 on every system of a problem, with its step scaled by each factor.

    The step size is that of Pham, Rein & Spiegel 2024, rebound's default. Every evaluation that
    rebound makes counts: seven per iteration of a step, those of rejected steps included.

    Args:
        problem: the systems.
        factors: multiply the step.
        max_steps: a run that needs more has failed.

    Yields:
        One run per factor and system.
    """
    for factor in factors:
        for system, table in enumerate(problem.tables):
            with warnings.catch_warnings():
                # Long steps are bound to make predictor-corrector loops that do not converge.
                warnings.simplefilter("ignore", RuntimeWarning)
                run = _run(problem, system, table, factor, max_steps)
            yield run


def _run(problem: Problem, system: int, table: np.ndarray, factor: float, max_steps: int) -> Run:
    simulation = _simulation(problem, table)
    # rebound 5 keeps an integrator's settings on the integrator, rebound 4 on the simulation.
    settings = getattr(simulation, "ri_ias15", simulation.integrator)
    settings.epsilon = EPSILON * factor**ORDER
    evaluations, errors, spins = 0, [], []
    kinetic, potential = _energies(simulation)
    energy, spin = kinetic + potential, np.array(simulation.angular_momentum())
    size = np.linalg.norm(spin)
    scale = max(abs(energy), SMALL_FRACTION * (kinetic + abs(potential)))

    def count(_: Any) -> None:
        nonlocal evaluations
        evaluations += 1

    simulation.additional_forces = count
    began = time.perf_counter()
    failed = ""
    while simulation.t < problem.end_time and not failed:
        simulation.steps(1)
        errors.append(abs(_energy(simulation) - energy) / scale)
        spins.append(np.linalg.norm(np.array(simulation.angular_momentum()) - spin))
        if not errors[-1] <= FAILED_ABOVE:
            failed = "energy"
        elif len(errors) >= max_steps:
            failed = "steps"
    return Run(
        problem=problem.name,
        system=system,
        rule=NAME,
        symmetrized=False,
        factor=factor,
        steps=len(errors),
        force_evaluations=evaluations,
        evaluations_per_unit=evaluations / problem.units,
        unit=problem.unit,
        max_error=float(np.max(errors)),
        median_error=float(np.median(errors)),
        final_error=float(errors[-1]),
        angular_momentum_error=float(np.max(spins) / size) if size else float("nan"),
        seconds=time.perf_counter() - began,
        failed=failed,
    )


def _simulation(problem: Problem, table: np.ndarray) -> Any:
    import rebound

    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
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
    square = simulation.softening**2
    potential = 0.0
    for i in range(len(mass) - 1):
        distance = np.sqrt(np.sum((x[i + 1 :] - x[i]) ** 2, axis=1) + square)
        potential -= mass[i] * np.sum(mass[i + 1 :] / distance)
    return float(kinetic), float(potential)
