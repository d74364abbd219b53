"""Bodies from rebound, and to it; only here and beside its integrators is rebound imported."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError, needing, require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.physics.systems import System, three_axes


def from_rebound(simulation: Any, snapshot: int = -1) -> System:
    """The bodies of a rebound `Simulation`, or of a file of one, with its G, time and softening.

    Args:
        simulation: a `Simulation`, or the path of an archive.
        snapshot: of an archive, which to take; the last by default.

    Raises:
        UserError: rebound is missing, or the file cannot be read.
    """
    if isinstance(simulation, str | Path):
        simulation = _opened(Path(simulation), snapshot)
    bodies = list(simulation.particles)[: simulation.N - getattr(simulation, "N_var", 0)]
    rows = [[p.m, p.x, p.y, p.z, p.vx, p.vy, p.vz] for p in bodies]
    require(len(rows) > 0, "from_rebound: the simulation has no particles")
    gravity = Gravity(float(simulation.softening), G=float(simulation.G))
    particles = from_table(np.array(rows), gravity.acceleration, time=float(simulation.t))
    names = [getattr(p, "name", None) for p in bodies]
    named = any(names)
    labels = tuple(name or str(i) for i, name in enumerate(names)) if named else ()
    return System(particles, gravity, labels)


def to_rebound(
    particles: Particles,
    gravity: Gravity = Gravity(),  # noqa: B008 (frozen)
    names: Sequence[str] = (),
) -> Any:
    """A rebound `Simulation` of these bodies, at their time.

    Raises:
        UserError: rebound is missing, the bodies have more than three dimensions, or a field that
            rebound does not have moves them.
    """
    require(gravity.external is None, "to_rebound: rebound does not have this external field")
    simulation = _rebound().Simulation()
    simulation.G, simulation.softening = gravity.G, gravity.softening
    simulation.t = float(particles.time)
    x, v = three_axes(np.asarray(particles.position)), three_axes(np.asarray(particles.velocity))
    for i, m in enumerate(np.asarray(particles.mass, np.float64)):
        place = dict(zip(("x", "y", "z", "vx", "vy", "vz"), (*x[i], *v[i]), strict=True))
        simulation.add(m=m, **place)
        if names:
            _name(simulation.particles[i], names[i])
    return simulation


def _name(particle: Any, name: str) -> None:
    if hasattr(particle, "name"):
        particle.name = name
    else:
        particle.hash = name


def _opened(path: Path, snapshot: int) -> Any:
    require(path.is_file(), f"{path}: there is no such file; check the path")
    try:
        archive = _rebound().Simulationarchive(str(path))
        return archive[snapshot]
    except UserError:
        raise
    except Exception as error:  # rebound raises many kinds
        raise UserError(f"{path}: is no archive of rebound ({error})") from error


def _rebound() -> Any:
    with needing("this needs rebound: pip install 'jaxstepper[rebound]'"):
        import rebound
    return rebound
