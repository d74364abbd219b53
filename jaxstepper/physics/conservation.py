"""What a rollout conserved, as plain numbers for JSON."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxstepper.physics.diagnostics import (
    SMALL_FRACTION,
    Energy,
    angular_momentum,
    barycentric,
    momentum,
    reference_energy,
    total_energy,
)
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles


def report(gravity: Gravity, first: Particles, last: Particles, steps: int) -> dict[str, Any]:
    """How well a rollout conserved energy, momentum and angular momentum.

    The residuals are the same in every inertial frame and unit. energy_residual is (E - E0) / E0
    with energies about the barycentre; where |E0| is less than (T0 + |U0|) / 1000, it is E - E0
    relative to that. momentum_residual is |P - P0| relative to sum m |v|, and
    angular_momentum_residual |L - L0| relative to sum m |x| |v|, both about the barycentre at the
    start; a scalar L gives it the sign of (L - L0) / L0, or of L - L0 where |L0| is less than a
    hundredth of that sum, and None if the sum is 0. For bodies that start at rest, a hundredth of
    these sums at the end takes their place. An external field fixes the frame: with one, all are in
    the field's own frame, about its origin.

    Args:
        gravity: what moved the bodies.
        first: the state before the first step.
        last: the state after the last step.
        steps: the number of steps, which is passed on.

    Returns:
        Plain numbers and lists by name, with None for numbers that are not finite.
    """
    one, other = (_conserved(gravity, p) for p in (first, last))
    reference, scale = map(float, one.internal)
    gained = float(other.internal.value) - reference
    (speed0, sweep0), (speed1, sweep1) = (_sizes(each.inner) for each in (one, other))
    # Differences first: a drift would drown them in rounding.
    kick = np.asarray(first.mass) @ (np.asarray(last.velocity) - np.asarray(first.velocity))
    spin0, spin1 = (np.asarray(each.spin) for each in (one, other))
    sweep = max(sweep0, SMALL_FRACTION * sweep1)
    values = {
        "steps": steps,
        "energy_initial": float(one.energy),
        "energy_final": float(other.energy),
        "energy_residual": _ratio(_along(gained, reference, scale), scale),
        "momentum_initial": one.momentum.tolist(),
        "momentum_final": other.momentum.tolist(),
        "momentum_residual": _vector_residual(kick, max(speed0, SMALL_FRACTION * speed1)),
        "angular_momentum_initial": one.angular_momentum.tolist(),
        "angular_momentum_final": other.angular_momentum.tolist(),
        "angular_momentum_residual": (
            _ratio(_along(float(spin1 - spin0), spin0, SMALL_FRACTION * sweep), sweep)
            if spin0.ndim == 0
            else _vector_residual(spin1 - spin0, sweep)
        ),
    }
    return {name: finite_or_none(value) for name, value in values.items()}


def finite_or_none(value: Any) -> Any:
    """The value, with None for each number that is not finite, which JSON cannot express."""
    if isinstance(value, list):
        return [finite_or_none(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


class _Conserved(NamedTuple):
    """What a state has of each quantity: in the frame of the state, and about the barycentre."""

    energy: Float[Array, ""]
    momentum: Float[Array, " D"]
    angular_momentum: Float[Array, "..."]
    internal: Energy
    spin: Float[Array, "..."]
    inner: Particles


# One program, since each operation outside of one would be compiled alone.
@partial(jax.jit, static_argnums=0)
def _conserved(gravity: Gravity, particles: Particles) -> _Conserved:
    inner = barycentric(particles, gravity)
    return _Conserved(
        energy=total_energy(particles, gravity),
        momentum=momentum(particles),
        angular_momentum=angular_momentum(particles),
        internal=reference_energy(particles, gravity),
        spin=angular_momentum(inner),
        inner=inner,
    )


def _sizes(particles: Particles) -> tuple[float, float]:
    """sum m |v| and sum m |x| |v|."""
    mass = np.asarray(particles.mass, np.float64)
    distance, speed = (
        np.linalg.norm(np.asarray(z, np.float64), axis=1)
        for z in (particles.position, particles.velocity)
    )
    return float(mass @ speed), float(mass @ (distance * speed))


def _along(change: float, initial: Any, least: float) -> float:
    """The change, positive where it adds to the initial value, or as it is if that is small.

    The sign of an initial value that is 0 up to rounding would differ from frame to frame.
    """
    return -change if initial <= -least else change


def _ratio(change: float, scale: float) -> float | None:
    return change / scale if scale else None


def _vector_residual(change: np.ndarray, scale: float) -> float | None:
    size = float(np.linalg.norm(change))
    return _ratio(size, scale) if size else 0.0
