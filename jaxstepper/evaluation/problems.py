"""The problems on which step-size rules are compared: initial conditions and how long they run."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.tables import Table, load_table, validate_table

KEPLER = tuple(f"kepler-{e}" for e in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99))
THREE_BODIES = ("pythagorean", "figure-eight")
PLUMMER = tuple(f"plummer-{n}" for n in (64, 256, 1024))
NAMES = "kepler-E, pythagorean, figure-eight, triple, plummer-N, or a file of bodies"
PLUMMER_SEEDS = 10


@dataclass(frozen=True, eq=False)
class Problem:
    """Systems to run with every rule.

    Attributes:
        name: the problem's name.
        tables: `[B, N, 1 + 2 D]`, the initial conditions of B systems.
        end_time: the time at which a run ends.
        unit: "orbit" or "time"; evaluations are counted per unit.
        units: the length of a run in those units.
        softening: the softening length of the force.
    """

    name: str
    tables: Table
    end_time: float
    unit: str
    units: float
    softening: float = 0.0


def problem(
    name: str, orbits: float = 100, seed: int = 0, end_time: float | None = None
) -> Problem:
    """The problem with a name.

    Args:
        name: `kepler-E` (a = 1, total mass 1, from apocentre), `pythagorean` (T = 70),
            `figure-eight` (T = 100), `triple` (outer orbits), `plummer-N` (Henon units, softening
            0.01, T = 10, ten draws), or a path as `load_table` reads it.
        orbits: the length of a run for Kepler pairs and for the outer bodies of triples.
        seed: seeds the draws.
        end_time: replaces the problem's own end time; a file needs it.

    Raises:
        UserError: no problem has this name, or a file lacks an end time or cannot be read.
    """
    kepler, plummer = re.fullmatch(r"kepler-(.+)", name), re.fullmatch(r"plummer-(\d+)", name)
    if kepler:
        found = _kepler(name, kepler[1], orbits)
    elif name == "triple":
        table = ics.hierarchical_triple()
        period = 2 * math.pi * math.sqrt(10.0**3 / 3)
        found = Problem(name, table[None], orbits * period, "orbit", orbits)
    elif name == "pythagorean":
        found = _timed(name, ics.pythagorean()[None], 70.0)
    elif name == "figure-eight":
        found = _timed(name, ics.figure_eight()[None], 100.0)
    elif plummer:
        rng = np.random.default_rng(seed)
        spheres = [ics.plummer(rng, int(plummer[1])) for _ in range(PLUMMER_SEEDS)]
        found = _timed(name, np.stack(spheres), 10.0, softening=0.01)
    elif Path(name).is_file():
        if end_time is None:
            raise UserError(f"{name}: bodies of a file need --end-time")
        tables = validate_table(load_table(name), name)
        found = _timed(name, tables if tables.ndim == 3 else tables[None], end_time)
    else:
        raise UserError(f"there is no problem {name}; there are {NAMES}")
    if end_time is None or end_time == found.end_time:
        return found
    units = found.units * end_time / found.end_time
    return Problem(name, found.tables, end_time, found.unit, units, found.softening)


def _kepler(name: str, eccentricity: str, orbits: float) -> Problem:
    try:
        e = float(eccentricity)
    except ValueError as error:
        raise UserError(f"{name}: {eccentricity} is no eccentricity; try kepler-0.9") from error
    table = ics.kepler_pair(e, total_mass=1.0, phase=math.pi)
    return Problem(name, table[None], 2 * math.pi * orbits, "orbit", orbits)


def _timed(name: str, tables: Table, end_time: float, softening: float = 0.0) -> Problem:
    return Problem(name, tables, end_time, "time", end_time, softening)
