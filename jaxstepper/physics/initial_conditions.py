"""Tables of bodies to start from, drawn or classic (numpy, on the host); files are in `tables`.

A table is float64 `[N, 1 + 2 D]`, columns mass, x..., v...; a batch is `[B, N, 1 + 2 D]`. G = 1.
Arguments that make no valid table or bound orbit raise `UserError`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxstepper.errors import require
from jaxstepper.physics.elements import from_elements
from jaxstepper.physics.tables import Table

# Of tight binaries in a Plummer sphere of size 1.
SEMI_MAJOR, ECCENTRICITY = (0.002, 0.05), (0.0, 0.97)

Seed = int | np.random.Generator | None  # None: from entropy; a generator continues

FIGURE_EIGHT_PERIOD = 6.32591398


def random_table(
    seed: Seed, num_particles: int, dim: int, mass: float, pos_scale: float, vel_scale: float
) -> Table:
    """Equal masses with normal positions and velocities, both centred: `[N, 1 + 2 D]`.

    A seed fixes every bit: positions are drawn first, and the mean is subtracted last.
    """
    require(num_particles >= 2, f"num_particles must be >= 2, got {num_particles}")
    rng = np.random.default_rng(seed)
    position = rng.normal(0, pos_scale, (num_particles, dim))
    velocity = rng.normal(0, vel_scale, (num_particles, dim))
    return _centred(mass, position, velocity)


def random_batch(
    seed: Seed,
    num_systems: int,
    num_particles: int,
    dim: int,
    mass: float,
    pos_scale: float,
    vel_scale: float,
) -> Table:
    """`num_systems` random tables, one after another from one generator: `[B, N, 1 + 2 D]`."""
    require(num_systems >= 1, f"num_systems must be >= 1, got {num_systems}")
    rng = np.random.default_rng(seed)
    settings = (num_particles, dim, mass, pos_scale, vel_scale)
    return np.stack([random_table(rng, *settings) for _ in range(num_systems)])


def kepler_table(
    eccentricity: float, semi_major: float, masses: tuple[float, float] = (1.0, 1.0), dim: int = 2
) -> Table:
    """A Kepler pair at pericentre, split in halves: `[2, 1 + 2 D]`. It turns clockwise.

    Each body gets half the separation and half the relative velocity, whatever its mass: the
    checkpoints we exchange were trained on such pairs. The relative orbit is exact, but for unequal
    masses the barycentre is off the origin and drifts. `kepler_pair` is barycentric.
    """
    total = sum(masses)
    _check_orbit(eccentricity, semi_major, total)
    x = semi_major * (1 - eccentricity) / 2
    v = math.sqrt(total * (1 + eccentricity) / (semi_major * (1 - eccentricity))) / 2
    return _embed([[masses[0], -x, 0, 0, v], [masses[1], x, 0, 0, -v]], dim)


def kepler_pair(
    eccentricity: float,
    semi_major: float = 1.0,
    mass_ratio: float = 1.0,
    total_mass: float = 2.0,
    phase: float = 0.0,
    dim: int = 2,
) -> Table:
    """A Kepler pair at any phase, its barycentre at rest at 0: `[2, 1 + 2 D]`.

    The second body moves counter-clockwise around the first, with pericentre on +x. Distances are
    in proportion to the other body's mass (`kepler_table` halves them, and turns clockwise).
    Source: Murray & Dermott 1999, chapter 2.

    Args:
        eccentricity: in [0, 1).
        semi_major: semi-major axis of the relative orbit.
        mass_ratio: m2 / m1.
        total_mass: m1 + m2; the default makes two unit masses.
        phase: true anomaly in radians; pi is apocentre.
        dim: number of dimensions, at least 2.
    """
    require(0 < mass_ratio < math.inf, f"mass_ratio must be > 0, got {mass_ratio}")
    _check_orbit(eccentricity, semi_major, total_mass)
    parameter = semi_major * (1 - eccentricity) * (1 + eccentricity)
    separation = parameter / (1 + eccentricity * math.cos(phase))
    speed = math.sqrt(total_mass / parameter)
    position = separation * np.array([math.cos(phase), math.sin(phase)])
    velocity = speed * np.array([-math.sin(phase), eccentricity + math.cos(phase)])
    relative = np.concatenate([position, velocity])
    share1, share2 = 1 / (1 + mass_ratio), mass_ratio / (1 + mass_ratio)
    first = [total_mass * share1, *(-share2 * relative)]
    second = [total_mass * share2, *(share1 * relative)]
    return _embed([first, second], dim)


def kepler_batch(
    seed: Seed,
    num_orbits: int,
    e_min: float,
    e_max: float,
    a_min: float,
    a_max: float,
    mass: float,
    dim: int,
    at_apocentre: bool = False,
) -> Table:
    """Kepler pairs of equal masses with uniform e and a, drawn in that order: `[B, 2, 1 + 2 D]`.

    Each is a `kepler_table`, at pericentre, or a `kepler_pair` at apocentre.
    """
    require(num_orbits >= 1, f"num_orbits must be >= 1, got {num_orbits}")
    require(0 <= e_min <= e_max < 1, f"need 0 <= e_min <= e_max < 1, got {e_min} and {e_max}")
    require(0 < a_min <= a_max, f"need 0 < a_min <= a_max, got {a_min} and {a_max}")
    rng = np.random.default_rng(seed)
    orbits = [(rng.uniform(e_min, e_max), rng.uniform(a_min, a_max)) for _ in range(num_orbits)]
    if at_apocentre:
        return np.stack([kepler_pair(e, a, 1.0, 2 * mass, math.pi, dim) for e, a in orbits])
    return np.stack([kepler_table(e, a, (mass, mass), dim) for e, a in orbits])


def pythagorean(dim: int = 2) -> Table:
    """Masses 3, 4, 5 at rest on a 3-4-5 triangle, `[3, 1 + 2 D]` (Burrau 1913)."""
    return _embed([[3, 1, 3, 0, 0], [4, -2, -1, 0, 0], [5, 1, -1, 0, 0]], dim)


def figure_eight(dim: int = 2) -> Table:
    """Three unit masses on a figure eight of period `FIGURE_EIGHT_PERIOD`, `[3, 1 + 2 D]`.

    Source: Chenciner & Montgomery 2000, with C. Simo's numbers.
    """
    x, y, vx, vy = 0.97000436, -0.24308753, -0.93240737, -0.86473146
    pair = [[1, x, y, -vx / 2, -vy / 2], [1, -x, -y, -vx / 2, -vy / 2]]
    return _embed([*pair, [1, 0, 0, vx, vy]], dim)


def plummer(
    seed: Seed,
    num_particles: int,
    binaries: int = 0,
    semi_major: tuple[float, float] = SEMI_MAJOR,
    eccentricity: tuple[float, float] = ECCENTRICITY,
) -> Table:
    """A Plummer sphere of equal masses in Henon units (total mass 1, E = -1/4): `[N, 7]`.

    The samples have no cut in radius and are moved to the centre-of-mass frame. The energy is *not*
    rescaled: -1/4 is its expectation, with sampling noise of order 1 / sqrt(N), and without that
    inside the binaries.
    Source: Aarseth, Henon & Wielen 1974, appendix; virial scale 3 pi / 16.

    Args:
        seed: of the draw.
        num_particles: N, the bodies of the binaries included.
        binaries: how many pairs of bodies, the first ones, are binaries with a place in the sphere
            each, turned anyhow and anywhere on their orbit.
        semi_major: the range of their semi-major axes, log-uniform.
        eccentricity: the range of their eccentricities, thermal: e^2 is uniform (Jeans 1919).
    """
    require(num_particles >= 2, f"num_particles must be >= 2, got {num_particles}")
    require(
        0 <= 2 * binaries <= num_particles,
        f"binaries must be 0 to half of num_particles, {num_particles}; got {binaries}",
    )
    rng = np.random.default_rng(seed)
    places = num_particles - binaries
    mass_fraction = rng.random(places) ** (2 / 3)
    radius = np.sqrt(mass_fraction / (1 - mass_fraction))
    escape_speed = math.sqrt(2) * (1 + radius**2) ** -0.25
    speed = escape_speed * _plummer_speed_ratios(rng, places)
    scale = 3 * math.pi / 16
    position = scale * radius[:, None] * _directions(rng, places)
    velocity = speed[:, None] * _directions(rng, places) / math.sqrt(scale)
    if binaries:
        motion = np.hstack([position, velocity])
        within = [
            _binary(rng, 1 / num_particles, semi_major, eccentricity) for _ in range(binaries)
        ]
        motion = np.concatenate([np.repeat(motion[:binaries], 2, axis=0), motion[binaries:]])
        motion[: 2 * binaries] += np.concatenate(within)
        position, velocity = np.hsplit(motion, 2)
    return _centred(1 / num_particles, position, velocity)


def plummer_batch(
    seed: Seed,
    num_spheres: int,
    num_particles: int,
    most_binaries: int = 0,
    semi_major: tuple[float, float] = SEMI_MAJOR,
    eccentricity: tuple[float, float] = ECCENTRICITY,
) -> Table:
    """`num_spheres` Plummer spheres, one after another from one generator: `[B, N, 7]`.

    Each has 0 to `most_binaries` binaries, each number as likely as the others, of these ranges of
    semi-major axes and eccentricities, as in `plummer`.
    """
    require(num_spheres >= 1, f"num_spheres must be >= 1, got {num_spheres}")
    rng = np.random.default_rng(seed)

    def sphere() -> Table:
        binaries = int(rng.integers(most_binaries + 1)) if most_binaries else 0
        return plummer(rng, num_particles, binaries, semi_major, eccentricity)

    return np.stack([sphere() for _ in range(num_spheres)])


def virial_system(seed: Seed, masses: Sequence[float]) -> Table:
    """Bodies at random in virial equilibrium, in Henon units (total mass 1, E = -1/4): `[N, 7]`.

    Positions and velocities are normal, in that order, and scaled to T = 1/4 and U = -1/2 about the
    barycentre, which rests at 0. Units: Heggie & Mathieu 1986.

    Args:
        seed: of the draw.
        masses: of N >= 2 bodies, in any unit.
    """
    require(len(masses) >= 2 and min(masses) > 0, f"need two masses > 0 or more, got {masses}")
    rng = np.random.default_rng(seed)
    mass = np.asarray(masses) / np.sum(masses)
    position, velocity = rng.normal(size=(2, len(mass), 3))
    position -= mass @ position
    velocity -= mass @ velocity
    first, second = np.triu_indices(len(mass), k=1)
    distance = np.linalg.norm(position[first] - position[second], axis=1)
    position *= np.sum(mass[first] * mass[second] / distance) / 0.5
    velocity *= math.sqrt(0.25 / (0.5 * mass @ np.sum(velocity**2, axis=1)))
    return np.hstack([mass[:, None], position, velocity])


def virial_batch(seed: Seed, num_systems: int, num_particles: int, mass_range: float) -> Table:
    """`virial_system`s whose masses are log-uniform in a range of this ratio: `[B, N, 7]`."""
    rng = np.random.default_rng(seed)
    masses = mass_range ** rng.uniform(size=(num_systems, num_particles))
    return np.stack([virial_system(rng, each.tolist()) for each in masses])


def hierarchical_triple(
    inner_semi_major: float = 1.0,
    inner_eccentricity: float = 0.1,
    outer_semi_major: float = 10.0,
    outer_eccentricity: float = 0.3,
    masses: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dim: int = 2,
) -> Table:
    """A close pair (bodies 0, 1) and a far third, coplanar and barycentric: `[3, 1 + 2 D]`.

    The pair starts at pericentre, the third at the apocentre of its orbit around the pair. The
    defaults are stable by Mardling & Aarseth 2001.
    """
    require(min(masses) > 0, f"masses must be > 0, got {masses}")
    m1, m2, m3 = masses
    m12 = m1 + m2
    inner = kepler_pair(inner_eccentricity, inner_semi_major, m2 / m1, m12, 0.0, dim)
    outer = kepler_pair(outer_eccentricity, outer_semi_major, m3 / m12, m12 + m3, math.pi, dim)
    inner[:, 1:] += outer[0, 1:]
    return np.concatenate([inner, outer[1:]])


class Orbit(NamedTuple):
    """The shape of the orbit of two bodies about each other.

    Attributes:
        eccentricity: 1 or more if they are not bound.
        semi_major: negative if they are not bound, and infinite on a parabola.
    """

    eccentricity: float
    semi_major: float


def orbit_of_pair(table: Table) -> Orbit | None:
    """The orbit of a pair `[2, 1 + 2 D]`, without softening; None for others.

    The eccentricity is |(v^2 - M / r) x - (x . v) v| / M, of relative positions and velocities.
    """
    if table.ndim != 2 or table.shape[0] != 2:
        return None
    relative, total = table[1, 1:] - table[0, 1:], float(table[:, 0].sum())
    position, velocity = np.split(relative, 2)
    separation, speed = float(np.linalg.norm(position)), float(np.linalg.norm(velocity))
    if separation == 0 or total == 0:
        return None
    energy = speed**2 / 2 - total / separation
    towards = (speed**2 - total / separation) * position - (position @ velocity) * velocity
    semi_major = -total / (2 * energy) if energy else math.inf
    return Orbit(float(np.linalg.norm(towards)) / total, semi_major)


def orbital_period(table: Table) -> float | None:
    """2 pi sqrt(a^3 / M) of a bound pair `[2, 1 + 2 D]`, without softening; None for others."""
    orbit = orbit_of_pair(table)
    if orbit is None or not 0 < orbit.semi_major < math.inf:
        return None
    return 2 * math.pi * math.sqrt(orbit.semi_major**3 / float(table[:, 0].sum()))


def _check_orbit(eccentricity: float, semi_major: float, total_mass: float) -> None:
    require(0 <= eccentricity < 1, f"eccentricity must be in [0, 1), got {eccentricity}")
    require(0 < semi_major < math.inf, f"semi_major must be > 0, got {semi_major}")
    require(0 < total_mass < math.inf, f"the total mass must be > 0, got {total_mass}")


def _binary(
    rng: np.random.Generator,
    mass: float,
    semi_major: tuple[float, float],
    eccentricity: tuple[float, float],
) -> Table:
    """Positions and velocities `[2, 6]` of two equal masses in their centre of mass."""
    (a_min, a_max), (e_min, e_max) = semi_major, eccentricity
    require(0 < a_min <= a_max, f"need 0 < semi_major, the first the smaller; got {semi_major}")
    require(0 <= e_min <= e_max < 1, f"eccentricity must be in [0, 1), got {eccentricity}")
    share, squared = rng.random(2)
    a = a_min * (a_max / a_min) ** share
    e = math.sqrt(e_min**2 + squared * (e_max**2 - e_min**2))
    Omega, omega, M = rng.uniform(0, 2 * math.pi, 3)
    inc = math.acos(rng.uniform(-1, 1))
    return from_elements([mass, mass], a, e, inc, Omega, omega, M=M)[:, 1:]


def _embed(planar: list[list[float]], dim: int) -> Table:
    """Rows of m, x, y, vx, vy as a table `[N, 1 + 2 D]`, the other components 0."""
    require(dim >= 2, f"a planar problem needs dim >= 2, got {dim}")
    table = np.zeros((len(planar), 1 + 2 * dim))
    table[:, [0, 1, 2, 1 + dim, 2 + dim]] = planar
    return table


def _centred(mass: float, position: Table, velocity: Table) -> Table:
    masses = np.full((len(position), 1), mass)
    return np.hstack([masses, position - position.mean(axis=0), velocity - velocity.mean(axis=0)])


def _plummer_speed_ratios(rng: np.random.Generator, count: int) -> Table:
    """Speeds over escape speed `[count]`, density ~ q^2 (1 - q^2)^(7/2), by rejection."""
    accepted = np.empty(0)
    while len(accepted) < count:
        ratio, height = rng.random(4 * count), 0.1 * rng.random(4 * count)  # the maximum is 0.092
        accepted = np.append(accepted, ratio[height < ratio**2 * (1 - ratio**2) ** 3.5])
    return accepted[:count]


def _directions(rng: np.random.Generator, count: int) -> Table:
    vectors = rng.normal(size=(count, 3))
    lengths: Table = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
