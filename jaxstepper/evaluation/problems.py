"""The problems on which step-size rules are compared: initial conditions and how long they run."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.tables import Table, validate_table

KEPLER = tuple(f"kepler-{e}" for e in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99))
THREE_BODIES = ("pythagorean", "figure-eight")
PLUMMER = tuple(f"plummer-{n}" for n in (64, 256, 1024))
NAMES = (
    "kepler-E, pythagorean, figure-eight, triple, planet-in-binary, triples, triples-unequal, "
    "plummer-N, or a file of bodies"
)
# Problems have a branch of random numbers of their own: no seed of a run gives their systems.
HELD_OUT = 2000
NUM_SPHERES, NUM_TRIPLES = 10, 64
# Spheres of so many bodies run for a shorter time.
MANY_BODIES = 1024


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
        regular: whether nearby orbits stay close, so that positions are compared.
        judged_by: "energy" or "position": the error that is to be small.
    """

    name: str
    tables: Table
    end_time: float
    unit: str
    units: float
    softening: float = 0.0
    regular: bool = False
    judged_by: str = "energy"


def problem(
    name: str,
    orbits: float = 100,
    seed: int = 0,
    end_time: float | None = None,
    systems: int | None = None,
) -> Problem:
    """The problem with a name.

    Args:
        name: one of
            `kepler-E`: a = 1, total mass 1, from apocentre;
            `pythagorean`: T = 70; `figure-eight`: T = 100;
            `triple`: a stable hierarchy, in orbits of the outer body;
            `planet-in-binary`: a planet of 1e-9 around one of two equal stars, whose energy is 1e-8
            of all, so that it is judged by position, in orbits of the planet;
            `triples`, `triples-unequal`: `virial_system`s of three bodies, 64 draws, T = 30; equal
            masses, or log-uniform ones from 0.1 to 10 in proportion;
            `plummer-N`: Henon units, softening 0.01, ten draws, T = 10, or 2 from 1024 bodies on.
        orbits: the length of a run in those problems that are measured in orbits.
        seed: of the draws. Whatever it is, no training draws the same systems.
        end_time: replaces the problem's own end time.
        systems: the number of draws.

    Raises:
        UserError: no problem has this name.
    """
    family, _, argument = name.partition("-")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(HELD_OUT,)))
    if name in _CLASSIC:
        found = _CLASSIC[name](name, orbits)
    elif family == "kepler" and argument:
        found = _kepler(name, argument, orbits)
    elif name in ("triples", "triples-unequal"):
        found = _triples(name, rng, systems or NUM_TRIPLES)
    elif re.fullmatch(r"plummer-(\d+)", name):
        found = _spheres(name, rng, int(argument), systems or NUM_SPHERES)
    else:
        raise UserError(f"there is no problem {name}; there are {NAMES}")
    if end_time is None or end_time == found.end_time:
        return found
    return replace(found, end_time=end_time, units=found.units * end_time / found.end_time)


def problem_of(
    name: str, bodies: Table, end_time: float, G: float = 1.0, softening: float = 0.0
) -> Problem:
    """Bodies of one's own as a problem.

    Args:
        name: the problem's name.
        bodies: `[N, 1 + 2 D]`, or systems `[B, N, 1 + 2 D]`.
        end_time: the time at which a run ends.
        G: the gravitational constant. The problem's masses are G m, which move as m do, so that all
            problems have G = 1.
        softening: the softening length of the force.

    Raises:
        UserError: the bodies cannot be used.
    """
    tables = np.array(validate_table(bodies, name, softening))
    tables[..., 0] *= G
    return _timed(name, tables if tables.ndim == 3 else tables[None], end_time, softening)


def _kepler(name: str, eccentricity: str, orbits: float) -> Problem:
    try:
        e = float(eccentricity)
    except ValueError as error:
        raise UserError(f"{name}: {eccentricity} is no eccentricity; try kepler-0.9") from error
    table = ics.kepler_pair(e, total_mass=1.0, phase=math.pi)
    return _orbital(name, table, 2 * math.pi, orbits)


def _pythagorean(name: str, orbits: float) -> Problem:
    del orbits
    return _timed(name, ics.pythagorean()[None], 70.0)


def _figure_eight(name: str, orbits: float) -> Problem:
    del orbits
    return replace(_timed(name, ics.figure_eight()[None], 100.0), regular=True)


def _triple(name: str, orbits: float) -> Problem:
    period = 2 * math.pi * math.sqrt(10.0**3 / 3)
    # Regular, but a reference for its thousands of inner orbits would take minutes.
    return replace(_orbital(name, ics.hierarchical_triple(), period, orbits), regular=False)


def _planet_in_binary(name: str, orbits: float) -> Problem:
    # Well inside the stable region of Holman & Wiegert 1999, which ends at some 4 here.
    table = ics.hierarchical_triple(1.0, 0.1, 20.0, 0.2, masses=(1.0, 1e-9, 1.0))
    return replace(_orbital(name, table, 2 * math.pi, orbits), judged_by="position")


_CLASSIC: dict[str, Callable[[str, float], Problem]] = {
    "pythagorean": _pythagorean,
    "figure-eight": _figure_eight,
    "triple": _triple,
    "planet-in-binary": _planet_in_binary,
}


def _triples(name: str, rng: np.random.Generator, systems: int) -> Problem:
    def masses() -> list[float]:
        return (10 ** rng.uniform(-1, 1, 3)).tolist() if name != "triples" else [1.0] * 3

    return _timed(name, np.stack([ics.virial_system(rng, masses()) for _ in range(systems)]), 30.0)


def _spheres(name: str, rng: np.random.Generator, bodies: int, systems: int) -> Problem:
    tables = np.stack([ics.plummer(rng, bodies) for _ in range(systems)])
    return _timed(name, tables, 10.0 if bodies < MANY_BODIES else 2.0, softening=0.01)


def _orbital(name: str, table: Table, period: float, orbits: float) -> Problem:
    return Problem(name, table[None], orbits * period, "orbit", orbits, regular=True)


def _timed(name: str, tables: Table, end_time: float, softening: float = 0.0) -> Problem:
    return Problem(name, tables, end_time, "time", end_time, softening)
