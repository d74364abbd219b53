"""Orbital elements: from them to tables of bodies, and back (numpy, on the host).

Angles are in radians. Jacobi elements are about the barycentre of all bodies before, with the mass
of these and its own; heliocentric ones about body 0, with the mass of that and its own. Where an
orbit lies in the plane, Omega is 0; where it is a circle, omega is. Source: Murray & Dermott 1999,
section 2.8.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxstepper.errors import UserError, require
from jaxstepper.physics.tables import Table

Values = npt.NDArray[np.float64]
CENTRES = ("jacobi", "heliocentric")
MOST_TRIES = 100
# Sines of inclinations, and eccentricities, that are smaller are rounding.
TINY = 1e-13


class Elements(NamedTuple):
    """Orbits of all bodies but the first, each `[N - 1]`.

    Attributes:
        a: semi-major axis; negative where the orbit is hyperbolic.
        e: eccentricity.
        inc: inclination.
        Omega: longitude of the ascending node.
        omega: argument of pericentre.
        f: true anomaly.
        M: mean anomaly.
    """

    a: Values
    e: Values
    inc: Values
    Omega: Values
    omega: Values
    f: Values
    M: Values


def from_elements(
    mass: npt.ArrayLike,
    a: npt.ArrayLike,
    e: npt.ArrayLike = 0.0,
    inc: npt.ArrayLike = 0.0,
    Omega: npt.ArrayLike = 0.0,
    omega: npt.ArrayLike = 0.0,
    f: npt.ArrayLike | None = None,
    M: npt.ArrayLike | None = None,
    centre: str = "jacobi",
    G: float = 1.0,
) -> Table:
    """The table `[N, 7]` of bodies on these orbits, in their centre of mass.

    Args:
        mass: `[N]`, the first of them that of the central body.
        a: `[N - 1]`, or one for all; as are the others, in `Elements`.
        e: eccentricities.
        inc: inclinations.
        Omega: longitudes of the ascending nodes.
        omega: arguments of pericentre.
        f: true anomalies; by default 0.
        M: mean anomalies, in the place of f.
        centre: "jacobi" or "heliocentric".
        G: the gravitational constant, in the units of a and of the masses.

    Raises:
        UserError: there is no such orbit.
    """
    masses = np.atleast_1d(np.asarray(mass, np.float64))
    require(masses.ndim == 1 and len(masses) >= 2, "from_elements: give two masses or more")
    require(f is None or M is None, "from_elements: f and M both say where a body is; give one")
    require(centre in CENTRES, f"from_elements(centre={centre!r}): choose {' or '.join(CENTRES)}")
    given = [a, e, inc, Omega, omega, 0.0 if f is None else f, 0.0 if M is None else M]
    try:
        rows = [np.broadcast_to(np.asarray(x, np.float64), len(masses) - 1) for x in given]
    except ValueError as error:
        message = f"from_elements: {len(masses)} masses need {len(masses) - 1} of each element"
        raise UserError(f"{message}, or one for all") from error
    x, v = np.zeros((len(masses), 3)), np.zeros((len(masses), 3))
    for i in range(1, len(masses)):
        orbit = [float(row[i - 1]) for row in rows]
        _check(i, orbit[0], orbit[1])
        anomaly = orbit[5] if M is None else true_anomaly(orbit[6], orbit[1])
        inside = _inside(masses, i, centre)
        relative = _state(orbit[:5], anomaly, G * (float(np.sum(masses[inside])) + masses[i]))
        centre_x, centre_v = _mean(masses, x, inside), _mean(masses, v, inside)
        x[i], v[i] = centre_x + relative[0], centre_v + relative[1]
    everything = slice(0, len(masses))
    x, v = x - _mean(masses, x, everything), v - _mean(masses, v, everything)
    return np.hstack([masses[:, None], x, v])


def to_elements(table: npt.ArrayLike, centre: str = "jacobi", G: float = 1.0) -> Elements:
    """The orbits of a table `[N, 5]` or `[N, 7]`; the inverse of `from_elements`.

    Raises:
        UserError: the bodies are not in two or three dimensions.
    """
    values = np.asarray(table, np.float64)
    require(
        values.ndim == 2 and values.shape[1] in (5, 7) and len(values) >= 2,
        f"to_elements: a table must be [N, 5] or [N, 7], not {values.shape}",
    )
    require(centre in CENTRES, f"to_elements(centre={centre!r}): choose {' or '.join(CENTRES)}")
    dim = (values.shape[1] - 1) // 2
    mass = values[:, 0]
    x, v = np.zeros((len(mass), 3)), np.zeros((len(mass), 3))
    x[:, :dim], v[:, :dim] = values[:, 1 : 1 + dim], values[:, 1 + dim :]
    rows = []
    for i in range(1, len(mass)):
        inside = _inside(mass, i, centre)
        mu = G * (float(np.sum(mass[inside])) + mass[i])
        rows.append(_orbit(x[i] - _mean(mass, x, inside), v[i] - _mean(mass, v, inside), mu))
    return Elements(*np.array(rows).T)


def true_anomaly(M: float, e: float) -> float:
    """The true anomaly of a mean anomaly, by Newton's method on Kepler's equation."""
    if e < 1:
        M = (M + np.pi) % (2 * np.pi) - np.pi
        E = M if e < 0.8 else np.pi * np.sign(M)
        for _ in range(MOST_TRIES):
            step = (E - e * np.sin(E) - M) / (1 - e * np.cos(E))
            E -= step
            if abs(step) <= 1e-15 * (1 + abs(E)):
                break
        return float(2 * np.arctan2(np.sqrt(1 + e) * np.sin(E / 2), np.sqrt(1 - e) * np.cos(E / 2)))
    H = float(np.sign(M) * np.log(2 * abs(M) / e + 1.8))
    for _ in range(MOST_TRIES):
        step = (e * np.sinh(H) - H - M) / (e * np.cosh(H) - 1)
        H -= step
        if abs(step) <= 1e-15 * (1 + abs(H)):
            break
    return float(2 * np.arctan2(np.sqrt(e + 1) * np.sinh(H / 2), np.sqrt(e - 1) * np.cosh(H / 2)))


def _inside(mass: Values, i: int, centre: str) -> slice:
    """The bodies that body i goes round."""
    return slice(0, i) if centre == "jacobi" else slice(0, 1)


def _mean(mass: Values, z: Values, these: slice) -> Values:
    total = float(np.sum(mass[these]))
    require(total > 0, "elements need a mass > 0 inside every orbit")
    return np.asarray(mass[these] @ z[these] / total)


def _check(i: int, a: float, e: float) -> None:
    bound = a > 0 and 0 <= e < 1
    hyperbolic = -np.inf < a < 0 and e > 1
    message = f"body {i} has a = {a:g}, e = {e:g}; give a > 0 and e < 1, or a < 0 and e > 1"
    require(bool(np.isfinite(a)) and (bound or hyperbolic), f"from_elements: {message}")


def _state(orbit: list[float], f: float, mu: float) -> tuple[Values, Values]:
    """Relative position and velocity on an orbit of a, e, inc, Omega, omega, at f."""
    a, e, inc, Omega, omega = orbit
    semilatus = a * (1 - e * e)
    require(bool(1 + e * np.cos(f) > 0), f"from_elements: the hyperbola never reaches f = {f:g}")
    r, speed = semilatus / (1 + e * np.cos(f)), np.sqrt(mu / semilatus)
    node = np.array([np.cos(Omega), np.sin(Omega), 0.0])
    ahead = np.array([-np.sin(Omega) * np.cos(inc), np.cos(Omega) * np.cos(inc), np.sin(inc)])
    p = np.cos(omega) * node + np.sin(omega) * ahead
    q = -np.sin(omega) * node + np.cos(omega) * ahead
    return r * (np.cos(f) * p + np.sin(f) * q), speed * (-np.sin(f) * p + (e + np.cos(f)) * q)


def _orbit(x: Values, v: Values, mu: float) -> tuple[float, ...]:
    """a, e, inc, Omega, omega, f, M of a relative motion."""
    r = float(np.linalg.norm(x))
    spin = np.cross(x, v)
    h = float(np.linalg.norm(spin))
    excentric = np.cross(v, spin) / mu - x / r
    e = float(np.linalg.norm(excentric))
    a = 1 / (2 / r - float(v @ v) / mu)
    inc = float(np.arctan2(np.hypot(spin[0], spin[1]), spin[2]))
    tilted = np.hypot(spin[0], spin[1]) > TINY * h
    node = np.array([-spin[1], spin[0], 0.0]) if tilted else np.array([1.0, 0.0, 0.0])
    node /= np.linalg.norm(node)
    ahead = np.cross(spin / h, node)
    latitude = float(np.arctan2(x @ ahead, x @ node))
    omega = float(np.arctan2(excentric @ ahead, excentric @ node)) if e > TINY else 0.0
    Omega = float(np.arctan2(node[1], node[0]))
    f = (latitude - omega + np.pi) % (2 * np.pi) - np.pi
    half = np.tan(f / 2)
    if e < 1:
        E = 2 * np.arctan(np.sqrt((1 - e) / (1 + e)) * half)
        M = E - e * np.sin(E)
    else:
        H = 2 * np.arctanh(np.sqrt((e - 1) / (e + 1)) * half)
        M = e * np.sinh(H) - H
    return a, e, inc, Omega, omega, f, float(M)
