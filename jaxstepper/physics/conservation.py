"""What a rollout conserved, as plain numbers for JSON."""

from typing import Any

import numpy as np

from jaxstepper.physics.diagnostics import angular_momentum, momentum, total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles


def report(gravity: Gravity, first: Particles, last: Particles, steps: int) -> dict[str, Any]:
    """How well a rollout conserved energy, momentum and angular momentum.

    energy_residual is (E - E0) / E0 and momentum_residual |P - P0| / (|P0| + 1e-12).
    angular_momentum_residual is (L - L0) / L0 for a scalar, or None if L0 = 0; for a vector it is
    |L - L0| / (|L0| + 1e-12).

    Args:
        gravity: what moved the bodies.
        first: the state before the first step.
        last: the state after the last step.
        steps: the number of steps, which is passed on.

    Returns:
        Plain numbers and lists by name, with None for numbers that are not finite.
    """
    energy = [float(total_energy(p, gravity)) for p in (first, last)]
    p0, p1 = (np.asarray(momentum(p)) for p in (first, last))
    l0, l1 = (np.asarray(angular_momentum(p)) for p in (first, last))
    values = {
        "steps": steps,
        "energy_initial": energy[0],
        "energy_final": energy[1],
        "energy_residual": _ratio(energy[1] - energy[0], energy[0]),
        "momentum_initial": p0.tolist(),
        "momentum_final": p1.tolist(),
        "momentum_residual": _vector_residual(p0, p1),
        "angular_momentum_initial": l0.tolist(),
        "angular_momentum_final": l1.tolist(),
        "angular_momentum_residual": (
            _ratio(float(l1 - l0), float(l0)) if l0.ndim == 0 else _vector_residual(l0, l1)
        ),
    }
    return {name: finite_or_none(value) for name, value in values.items()}


def finite_or_none(value: Any) -> Any:
    """The value, with None for each number that is not finite, which JSON cannot express."""
    if isinstance(value, list):
        return [finite_or_none(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _ratio(change: float, initial: float) -> float | None:
    return change / initial if initial else None


def _vector_residual(initial: np.ndarray, final: np.ndarray) -> float:
    return float(np.linalg.norm(final - initial) / (np.linalg.norm(initial) + 1e-12))
