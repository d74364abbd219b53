"""Where the bodies of regular problems really are: positions that those of a run are compared with.

An energy error says nothing of the phase of an orbit, nor of a body whose energy is small.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.integrate import solve_ivp

from jaxstepper.evaluation.problems import Problem
from jaxstepper.physics.tables import Table

# Of the Runge-Kutta method of order 8 of Hairer, Norsett & Wanner 1993.
METHOD, TOLERANCE = "DOP853", 1e-13


def position_error(problem: Problem, system: int, time: float, position: np.ndarray) -> float:
    """How far a body is from where it should be, in units of the closest distance at the start.

    That is max |x - x_reference| over bodies. The reference is Kepler's solution for a pair without
    softening, else a fine integration.

    Args:
        problem: must be regular, else the result is NaN.
        system: which of its systems.
        time: of the positions; not before the problem's end.
        position: `[N, D]`.
    """
    if not (problem.regular and math.isfinite(time) and np.all(np.isfinite(position))):
        return math.nan
    table = problem.tables[system]
    expected = _positions(problem, system, time)
    return float(np.max(np.linalg.norm(position - expected, axis=1)) / _closest(table))


def _positions(problem: Problem, system: int, time: float) -> np.ndarray:
    table = problem.tables[system]
    if len(table) == 2 and problem.softening == 0:
        return kepler_positions(table, time)
    end = _at_end(problem, system)
    return _integrated(problem, end, table[:, 0], problem.end_time, time)[0]


@lru_cache
def _at_end(problem: Problem, system: int) -> np.ndarray:
    table = problem.tables[system]
    start = np.stack(np.split(table[:, 1:], 2, axis=1))
    return _integrated(problem, start, table[:, 0], 0.0, problem.end_time)


def _integrated(
    problem: Problem, state: np.ndarray, mass: np.ndarray, begin: float, end: float
) -> np.ndarray:
    """Positions and velocities `[2, N, D]` at another time."""

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        x, v = flat.reshape(state.shape)
        apart = x - x[:, None]
        square = np.sum(apart**2, axis=-1) + problem.softening**2
        np.fill_diagonal(square, np.inf)
        return np.stack([v, np.sum((mass / square**1.5)[..., None] * apart, axis=1)]).ravel()

    if end == begin:
        return state
    tolerances = {"rtol": TOLERANCE, "atol": TOLERANCE}
    found = solve_ivp(slope, (begin, end), state.ravel(), METHOD, t_eval=[end], **tolerances)
    last: np.ndarray = found.y[:, -1].reshape(state.shape)
    return last


def kepler_positions(table: Table, time: float) -> np.ndarray:
    """The positions `[2, D]` of a bound pair after some time, in closed form.

    By Gauss's f and g of the change of eccentric anomaly; Danby 1988, sections 6.5 and 6.7.

    Args:
        table: `[2, 1 + 2 D]` at time 0.
        time: later or earlier.
    """
    mass, (x, v) = table[:, 0], np.split(table[:, 1:], 2, axis=1)
    total = mass.sum()
    relative, speed = x[1] - x[0], v[1] - v[0]
    r = np.linalg.norm(relative)
    semi_major = 1 / (2 / r - speed @ speed / total)
    motion = math.sqrt(total / semi_major**3)
    # e cos E and e sin E at the start.
    e_cos, e_sin = 1 - r / semi_major, relative @ speed / (motion * semi_major**2)
    mean = motion * time
    turns = round(mean / (2 * math.pi))
    change = _anomaly(mean - 2 * math.pi * turns, e_cos, e_sin)
    f = 1 - semi_major / r * (1 - math.cos(change))
    g = (mean - 2 * math.pi * turns + math.sin(change) - change) / motion
    new = f * relative + g * speed
    centre = (mass @ x + mass @ v * time) / total
    return centre + np.outer([-mass[1], mass[0]], new) / total


def _anomaly(mean: float, e_cos: float, e_sin: float) -> float:
    """The change D of eccentric anomaly with D - e_cos sin D + e_sin (1 - cos D) = mean.

    By halving: the left side grows with D, and is within 2 e of it.
    """
    low, high = mean - 2.0, mean + 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        if middle - e_cos * math.sin(middle) + e_sin * (1 - math.cos(middle)) < mean:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _closest(table: Table) -> float:
    x = table[:, 1 : 1 + (table.shape[1] - 1) // 2]
    first, second = np.triu_indices(len(table), k=1)
    return float(np.min(np.linalg.norm(x[first] - x[second], axis=1)))
