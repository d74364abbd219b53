"""`make-ics`: writes initial conditions to a file."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError, require
from jaxstepper.machine.memory import require_memory
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.tables import TEXT_SUFFIXES, Table, save_table, validate_table
from jaxstepper.physics.units import read_units
from jaxstepper.reporting.note import note, result
from jaxstepper.runs.places import check_file_place
from jaxstepper.runs.units import as_fast_as
from jaxstepper.settings.command_parser import CommandParser
from jaxstepper.settings.values import COUNT, FINITE, PATH, POSITIVE, Allowed, integer

Options = argparse.Namespace
Draw = Callable[[Options, np.random.Generator], Table]


def run_make_ics(arguments: list[str]) -> int:
    """`make-ics KIND [flags] --out FILE`; returns the exit code."""
    options = _parser().parse_args(arguments)
    draw: Draw = options.draw
    rng = np.random.default_rng(options.seed)
    path = Path(options.out)
    known = (".npy", *TEXT_SUFFIXES)
    require(path.suffix in known, f"--out {path}: unknown suffix; use one of {', '.join(known)}")
    check_file_place(path, f"--out {path}")
    bodies, dim = getattr(options, "num_particles", 2), getattr(options, "dim", 3)
    require_memory(8 * (options.count or 1) * bodies * (1 + 2 * dim), "so many bodies")
    units = read_units(options.units, "--units") if options.units else None
    if options.count is None:
        tables = draw(options, rng)
    else:
        require(path.suffix == ".npy", f"--out {path}: many systems (--count) need a .npy file")
        tables = np.stack([draw(options, rng) for _ in range(options.count)])
    if units is not None and options.kind != "random":  # whose velocities are given
        tables = as_fast_as(units.G, tables)
    validate_table(tables, options.kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror})") from error
    save_table(path, tables, units)
    if units is not None and path.suffix == ".npy":
        words = f"{path} keeps no units: read it with --units {' '.join(options.units)}"
        note(words, quiet=options.quiet)
    result(path)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="jaxstepper make-ics",
        description="Writes a table of bodies (columns mass, x..., v...), or a batch; where G = 1, "
        "or in --units.",
        examples=(
            "jaxstepper make-ics kepler -e 0.2 -a 5.2 --units au yr Msun --out jupiter.csv",
            "jaxstepper make-ics plummer --num-particles 64 --seed 1 --out sphere.csv",
            "jaxstepper make-ics kepler -e 0.1 0.9 --count 100 --seed 1 --out pairs.npy",
        ),
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def kind(name: str, words: str, draw: Draw, planar: bool = True) -> CommandParser:
        each = kinds.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        each.set_defaults(draw=draw)
        words = "a .txt, .dat, .csv or .npy file"
        each.take("--out", allowed=PATH, metavar="FILE", required=True, help=words)
        each.take("--count", allowed=COUNT, metavar="B", help="a batch of B systems (.npy)")
        each.take("--seed", allowed=integer(0), help="of what is drawn; else a fresh one")
        words = "of all that is given and written, such as au yr Msun; G = 1 without"
        each.add_argument("--units", nargs="+", metavar="UNIT", help=words)
        if planar:
            words = "dimensions (default: 2)"
            each.take("--dim", allowed=integer(2), default=2, metavar="D", help=words)
        return each

    kepler = kind("kepler", "a Kepler pair in its centre of mass; two numbers are a range", _kepler)
    _range(kepler, "-e", "--eccentricity", FINITE, 0.9, "eccentricity in [0, 1)")
    _range(kepler, "-a", "--semi-major", POSITIVE, 1.0, "semi-major axis")
    _range(kepler, "-q", "--mass-ratio", POSITIVE, 1.0, "mass ratio m2 / m1")
    _range(kepler, "-p", "--phase", FINITE, 0.0, "true anomaly in degrees; 180 is apocentre")
    words = "m1 + m2 (default: 2)"
    kepler.take("--total-mass", allowed=POSITIVE, default=2.0, metavar="M", help=words)
    kind(
        "pythagorean",
        "masses 3, 4, 5 at rest on a 3-4-5 triangle",
        lambda o, rng: ics.pythagorean(o.dim),
    )
    kind(
        "figure-eight",
        "three unit masses on a figure eight",
        lambda o, rng: ics.figure_eight(o.dim),
    )
    plummer = kind(
        "plummer",
        "a Plummer sphere in Henon units",
        _plummer,
        planar=False,
    )
    _bodies(plummer, 64)
    words = "how many pairs of the bodies are binaries (default: 0)"
    plummer.take("--binaries", allowed=integer(0), default=0, metavar="B", help=words)
    words = "of their semi-major axes, log-uniform (default: 0.002 0.05)"
    ends: dict[str, Any] = {"nargs": 2, "metavar": ("LOW", "HIGH")}
    plummer.take(
        "-a", "--semi-major", allowed=POSITIVE, default=list(ics.SEMI_MAJOR), help=words, **ends
    )
    words = "of their eccentricities, thermal (default: 0 0.97)"
    plummer.take(
        "-e", "--eccentricity", allowed=FINITE, default=list(ics.ECCENTRICITY), help=words, **ends
    )
    triple = kind("triple", "a close pair and a far third body", _triple)
    _one(triple, "--inner-semi-major", POSITIVE, 1.0, "of the pair")
    _one(triple, "--inner-eccentricity", FINITE, 0.1, "of the pair, which starts at pericentre")
    _one(triple, "--outer-semi-major", POSITIVE, 10.0, "of the third body's orbit around the pair")
    _one(triple, "--outer-eccentricity", FINITE, 0.3, "of the same, which starts at apocentre")
    masses, words = [1.0, 1.0, 1.0], "(default: 1 1 1)"
    triple.take("--masses", allowed=POSITIVE, nargs=3, default=masses, metavar="M", help=words)
    random = kind("random", "equal masses, normal positions and velocities", _random, planar=False)
    _bodies(random, 3)
    random.take("--dim", allowed=COUNT, default=2, metavar="D", help="(default: 2)")
    _one(random, "--mass", POSITIVE, 1.0, "of each body")
    _one(random, "--pos-scale", POSITIVE, 0.1, "standard deviation of positions")
    _one(random, "--vel-scale", POSITIVE, 1.0, "standard deviation of velocities")
    return parser


def _bodies(parser: CommandParser, default: int) -> None:
    words = f"number of bodies (default: {default})"
    parser.take("-n", "--num-particles", allowed=integer(2), default=default, help=words)


def _one(parser: CommandParser, name: str, allowed: Allowed, default: float, words: str) -> None:
    """Adds a flag that takes one number."""
    parser.take(name, allowed=allowed, default=default, help=f"{words} (default: {default:g})")


def _range(
    parser: CommandParser, short: str, name: str, allowed: Allowed, default: float, words: str
) -> None:
    """Adds a flag that takes one number, or the two ends of a uniform range."""
    words = f"{words} (default: {default:g})"
    parser.take(short, name, allowed=allowed, nargs="+", default=[default], help=words)


def _kepler(options: Options, rng: np.random.Generator) -> Table:
    def draw(name: str) -> float:
        low, *high = getattr(options, name)
        flag = "--" + name.replace("_", "-")
        require(len(high) <= 1, f"{flag}: takes one number, or the two ends of a range")
        require(not high or low <= high[0], f"{flag}: the range begins above its end")
        return float(rng.uniform(low, high[0])) if high else low

    e, a, q, phase = map(draw, ("eccentricity", "semi_major", "mass_ratio", "phase"))
    return ics.kepler_pair(e, a, q, options.total_mass, math.radians(phase), options.dim)


def _plummer(options: Options, rng: np.random.Generator) -> Table:
    ranges = tuple(options.semi_major), tuple(options.eccentricity)
    return ics.plummer(rng, options.num_particles, options.binaries, *ranges)


def _triple(options: Options, rng: np.random.Generator) -> Table:
    return ics.hierarchical_triple(
        options.inner_semi_major,
        options.inner_eccentricity,
        options.outer_semi_major,
        options.outer_eccentricity,
        tuple(options.masses),
        options.dim,
    )


def _random(options: Options, rng: np.random.Generator) -> Table:
    o = options
    return ics.random_table(rng, o.num_particles, o.dim, o.mass, o.pos_scale, o.vel_scale)
