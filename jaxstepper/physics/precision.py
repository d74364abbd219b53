"""Whether bodies can be simulated in a floating-point type.

Nothing may overflow or underflow, and the bodies must not be so far from the origin, or drift so
fast, that rounding spoils their energy.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jaxstepper.errors import UserError
from jaxstepper.physics.tables import Table

# Up to this many bodies all pairs are checked; beyond, neighbours along x and the outermost.
ALL_PAIRS_UP_TO = 300
# Pairs that are checked together, which bounds the memory.
PAIRS_AT_ONCE = 2**18
# The share of its energy that a system may lose to rounding because it is far from the origin.
MOST_ROUNDING = 3e-4
# Rounding is blamed on the origin if moving that to the barycentre makes it so many times smaller.
CURED = 10

Values = npt.NDArray[np.floating]
Indices = npt.NDArray[np.intp]


def check_precision(tables: Table, where: str, dtype: str, softening: float) -> None:
    """Checks that energies and forces of valid tables `[B, N, 1 + 2 D]` are finite and resolved.

    Args:
        tables: the bodies of B systems.
        where: the beginning of the message, such as the file name.
        dtype: "float64" or "float32".
        softening: softening length of the force.

    Raises:
        UserError: a mass, distance, force or energy is too large or too small for `dtype`,
            or rounding of positions or velocities far from 0 may change an energy by 0.03 %.
    """
    with np.errstate(over="ignore"):
        length = np.dtype(dtype).type(softening)
        if not np.isfinite(length**2):
            raise UserError(f"softening {softening}: its square overflows in {dtype}; choose less")
    for begin, systems, one, other in _pairs(tables):
        with np.errstate(all="ignore"):
            narrow = systems.astype(dtype)
            vanish = (narrow[..., 0] == 0) & (systems[..., 0] > 0)
            fault = _fault(narrow, vanish, length, one, other)
        if fault:
            system, words = fault
            prefix = f"system {begin + system}, " if len(tables) > 1 else ""
            wider = ", or --dtype float64" if dtype == "float32" else ""
            raise UserError(f"{where}: {prefix}{words} in {dtype}; choose other units{wider}")
        with np.errstate(all="ignore"):
            spoilt = _spoilt_by_rounding(systems, np.finfo(dtype).eps, softening, one, other)
        for system in np.flatnonzero(spoilt)[:1]:
            prefix = f"system {begin + system}: " if len(tables) > 1 else ""
            wider = ", or use --dtype float64" if dtype == "float32" else ""
            raise UserError(
                f"{where}: {prefix}the bodies are so far from the origin, or drift so fast, that "
                f"{dtype} spoils their energy; subtract the barycentre's position and velocity"
                f"{wider}"
            )


def _fault(
    tables: Values,
    vanish: npt.NDArray[np.bool_],
    softening: np.floating,
    one: Indices,
    other: Indices,
) -> tuple[int, str] | None:
    """The first faulty system of tables `[B, N, 1 + 2 D]`, and its fault.

    A mass of 0 is fine; one that is not, but becomes 0, is among those that `vanish`, `[B, N]`.
    Checks the pairs of bodies one[i] and other[i], `[P]` each.
    """
    dim = (tables.shape[2] - 1) // 2
    mass, position, velocity = np.split(tables, [1, 1 + dim], axis=2)
    kinetic = mass[..., 0] * np.sum(velocity**2, axis=2)
    bodies = {
        "has a value that overflows or vanishes": np.isfinite(tables).all(2) & ~vanish,
        "has a kinetic energy that overflows": np.isfinite(kinetic),
    }
    for words, fine in bodies.items():
        for system, body in np.argwhere(~fine)[:1]:
            return int(system), f"body {body} (counted from 0) {words}"

    apart = position[:, other] - position[:, one]
    distance_squared = np.sum(apart**2, axis=2) + softening**2
    inverse = 1 / np.sqrt(distance_squared)
    masses = np.stack([mass[:, one, 0], mass[:, other, 0]])
    force = masses.max(axis=0)[..., None] * apart * (inverse * inverse * inverse)[..., None]
    energy = masses.prod(axis=0) * inverse
    pairs = {
        "are in the same place": distance_squared > 0,
        "are too far apart": np.isfinite(distance_squared),
        "are so close or heavy that their force overflows": np.isfinite(force).all(axis=2),
        "are so close or heavy that their energy overflows": np.isfinite(energy),
    }
    for words, fine in pairs.items():
        for system, pair in np.argwhere(~fine)[:1]:
            first, second = sorted((one[pair], other[pair]))
            return int(system), f"body {first} (counted from 0) and body {second} {words}"
    for system in np.flatnonzero(~np.isfinite(energy.sum(axis=1) + kinetic.sum(axis=1)))[:1]:
        return int(system), "the energy overflows"
    return None


def _spoilt_by_rounding(
    tables: Values, eps: np.floating, softening: float, one: Indices, other: Indices
) -> npt.NDArray[np.bool_]:
    """Which systems lose too much of their energy to rounding, and would not at the origin."""
    dim = (tables.shape[2] - 1) // 2
    mass, centre = tables[..., :1], tables.astype(np.float64)
    share = mass / mass.sum(axis=1, keepdims=True)
    centre[..., 1:] -= np.sum(share * centre[..., 1:], axis=1, keepdims=True)
    relative = centre[..., 1 + dim :]
    apart = centre[:, other, 1 : 1 + dim] - centre[:, one, 1 : 1 + dim]
    distance = np.linalg.norm(apart, axis=2)
    softened = np.sqrt(distance**2 + softening**2)
    masses = tables[:, one, 0] * tables[:, other, 0]
    speed = np.linalg.norm(relative, axis=2)
    kinetic = 0.5 * np.sum(tables[..., 0] * speed**2, axis=1)
    energy = kinetic + np.sum(masses / softened, axis=1)

    def lost(bodies: Values) -> Values:
        """A bound, to first order, on the share of the energy that rounding changes."""
        place = eps * np.linalg.norm(bodies[..., 1 : 1 + dim], axis=2)
        pace = eps * np.linalg.norm(bodies[..., 1 + dim :], axis=2)
        closer = np.maximum(place[:, one], place[:, other]) * distance / softened**3
        faster = tables[..., 0] * (speed * pace + 0.5 * pace**2)
        return (np.sum(masses * closer, axis=1) + np.sum(faster, axis=1)) / energy

    far = lost(tables)
    return (far > MOST_ROUNDING) & (far > CURED * lost(centre))


def _pairs(tables: Table) -> Iterator[tuple[int, Table, Indices, Indices]]:
    """Systems to check together, after the number of the first, and their pairs of bodies."""
    count = tables.shape[1]
    if count <= ALL_PAIRS_UP_TO:
        one, other = np.triu_indices(count, k=1)
        at_once = max(1, PAIRS_AT_ONCE // max(1, len(one)))
        for begin in range(0, len(tables), at_once):
            yield begin, tables[begin : begin + at_once], one, other
        return
    for system, table in enumerate(tables):
        position = table[:, 1 : (table.shape[1] + 1) // 2]
        order = np.lexsort(position.T[::-1])
        low, high = np.argmin(position, axis=0), np.argmax(position, axis=0)
        apart = low != high
        one = np.concatenate([order[:-1], low[apart]])
        other = np.concatenate([order[1:], high[apart]])
        yield system, table[None], one, other
