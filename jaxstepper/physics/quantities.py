"""Bodies as quantities with units, of astropy or of AMUSE, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxstepper.errors import needing
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.physics.systems import System, three_axes
from jaxstepper.physics.units import read_units, to_value, with_unit

SI = {"mass": "kg", "length": "m", "speed": "m / s", "time": "s"}
Words = str | Sequence[str]


def from_quantities(
    mass: Any, position: Any, velocity: Any, units: Words = "au yr Msun", softening: Any = 0.0
) -> System:
    """Bodies of astropy quantities; what moves them has the G of the units.

    Args:
        mass: `[N]`.
        position: `[N, D]`.
        velocity: `[N, D]`.
        units: those of the result, as for `--units`.
        softening: a length.

    Raises:
        UserError: astropy is missing, or a quantity is of another kind.
    """
    of = read_units(units, "units")
    columns = [to_value(mass, of.mass), to_value(position, of.length), to_value(velocity, of.speed)]
    m, x, v = (np.asarray(each, np.float64) for each in columns)
    gravity = Gravity(float(to_value(softening, of.length)), G=of.G)
    return System(from_table(np.hstack([m[:, None], x, v]), gravity.acceleration), gravity)


def to_quantities(particles: Particles, units: Words = "au yr Msun") -> dict[str, Any]:
    """mass, position, velocity and time as astropy quantities; the state is in these units."""
    of = read_units(units, "units")
    return {
        "mass": with_unit(np.asarray(particles.mass), of.mass),
        "position": with_unit(np.asarray(particles.position), of.length),
        "velocity": with_unit(np.asarray(particles.velocity), of.speed),
        "time": with_unit(float(particles.time), of.time),
    }


def from_amuse(bodies: Any, units: Words | None = "au yr Msun") -> System:
    """The bodies of an AMUSE particle set.

    Args:
        bodies: a set with mass, x, y, z, vx, vy, vz, and perhaps name.
        units: those of the result; None for a set in N-body units, where G = 1.

    Raises:
        UserError: AMUSE is missing.
    """
    si, nbody = _amuse()
    of = None if units is None else read_units(units, "units")

    def column(name: str, kind: str) -> np.ndarray:
        unit = getattr(nbody, kind) if of is None else getattr(si, SI_OF_AMUSE[kind])
        values = np.asarray(getattr(bodies, name).value_in(unit), np.float64)
        return values if of is None else values * of.factor(kind, SI[kind], "from_amuse")

    columns = [column("mass", "mass"), *(column(x, "length") for x in "xyz")]
    columns += [column(f"v{x}", "speed") for x in "xyz"]
    gravity = Gravity() if of is None else Gravity(G=of.G)
    names = tuple(map(str, bodies.name)) if hasattr(bodies, "name") else ()
    return System(from_table(np.stack(columns, axis=1), gravity.acceleration), gravity, names)


AMUSE = "this needs AMUSE; see amusecode.org"
SI_OF_AMUSE = {"mass": "kg", "length": "m", "speed": "ms"}


def to_amuse(
    particles: Particles, units: Words | None = "au yr Msun", names: Sequence[str] = ()
) -> Any:
    """An AMUSE particle set of the bodies, which are in these units; None for N-body units.

    Raises:
        UserError: AMUSE is missing, or the bodies have more than three dimensions.
    """
    si, nbody = _amuse()
    of = None if units is None else read_units(units, "units")
    with needing(AMUSE):
        from amuse.datamodel import Particles as ParticleSet
    bodies = ParticleSet(len(particles.mass))

    def quantity(values: np.ndarray, kind: str) -> Any:
        if of is None:
            return values | getattr(nbody, kind)
        unit = getattr(si, SI_OF_AMUSE[kind])
        return values / of.factor(kind, SI[kind], "to_amuse") | unit

    bodies.mass = quantity(np.asarray(particles.mass, np.float64), "mass")
    for name, kind, values in (
        ("", "length", particles.position),
        ("v", "speed", particles.velocity),
    ):
        for axis, column in zip("xyz", three_axes(np.asarray(values)).T, strict=True):
            setattr(bodies, name + axis, quantity(column, kind))
    if names:
        bodies.name = list(names)
    return bodies


def _amuse() -> tuple[Any, Any]:
    """AMUSE's units and N-body units."""
    with needing(AMUSE):
        from amuse.units import nbody_system, units
    return units, nbody_system
