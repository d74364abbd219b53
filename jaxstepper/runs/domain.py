"""The domain of a model: the bodies and tolerances at which it does what it is there for.

It is part of the notes of a checkpoint (`about`): `trained_on`, a line of text, and `domain`, the
ranges of some of the `QUANTITIES`. Of a range, an end that does not matter is None.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxstepper.physics.diagnostics import internal_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import orbit_of_pair
from jaxstepper.physics.particles import from_table

QUANTITIES = {
    "bodies": "bodies",
    "eccentricity": "eccentricity",
    "semi_major": "semi-major axis",
    "total_mass": "total mass",
    "mass_ratio": "mass ratio",
    "softening": "softening / virial radius",
    "tolerance": "tolerance",
}

Domain = Mapping[str, Sequence[float | None]]
"""From a quantity to its lowest and highest value."""

# Eccentricities that bodies were made with come back to rounding.
SLACK = 1e-6


def quantities(table: Float[np.ndarray, "N C"], softening: float) -> dict[str, float]:
    """The `QUANTITIES` of a system; those of an orbit only of two bodies without softening.

    Beside a body without mass, the mass ratio is infinite.
    """
    mass = table[:, 0]
    found = {"bodies": float(len(table))}
    if np.any(mass > 0):
        found["mass_ratio"] = float(mass.max() / mass.min()) if mass.all() else math.inf
        found["softening"] = softening and softening / virial_radius(table, softening)
    orbit = orbit_of_pair(table) if softening == 0 else None
    if orbit is not None:
        found |= {"eccentricity": orbit.eccentricity, "total_mass": float(mass.sum())}
        if orbit.eccentricity < 1:
            found["semi_major"] = orbit.semi_major
    return found


def virial_radius(table: Float[np.ndarray, "N C"], softening: float) -> float:
    """M^2 / (4 |E|) of a bound system, which it keeps on the way; M^2 / (2 |U|) of others."""
    gravity = Gravity(softening)
    particles = from_table(table, gravity.acceleration)
    energy = float(internal_energy(particles, gravity))
    if energy >= 0:
        energy = (
            float(gravity.potential_energy(particles.position, particles.mass, particles.time)) / 2
        )
    return float(table[:, 0].sum()) ** 2 / (4 * abs(energy))


def outside(domain: Domain, systems: Sequence[Mapping[str, float]]) -> list[str]:
    """What of systems lies outside a domain, as in "eccentricity 0.999, not 0 to 0.96"."""
    said = []
    for name, ends in domain.items():
        values = [system[name] for system in systems if name in system]
        below, above = ends
        low, high = min(values, default=None), max(values, default=None)
        if above is not None and high is not None and high > above * (1 + SLACK):
            said.append(f"{QUANTITIES[name]} {high:.4g}, not {words_of_range(ends)}")
        elif below is not None and low is not None and low < below * (1 - SLACK):
            said.append(f"{QUANTITIES[name]} {low:.4g}, not {words_of_range(ends)}")
    return said


def words_of_range(ends: Sequence[float | None]) -> str:
    """As in "0 to 0.97", "up to 0.01", "2"."""
    low, high = ends
    if low == high:
        return f"{low:g}"
    if low is None:
        return f"up to {high:g}"
    return f"from {low:g} on" if high is None else f"{low:g} to {high:g}"


def words_of_domain(about: Mapping[str, Any]) -> str:
    """The domain in the notes of a checkpoint, in a line."""
    domain: Domain = about.get("domain", {})
    return ", ".join(f"{QUANTITIES[name]} {words_of_range(ends)}" for name, ends in domain.items())
