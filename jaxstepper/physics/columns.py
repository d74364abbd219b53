"""The names of a table's columns: which hold mass, positions and velocities.

Names may stand in any order and in either case, with any of ` _-.[]()` in them: `Mass`, `x0`,
`pos_x`, `Vel[1]`. A unit may follow, `x[au]` or `m (Msun)`. A column of names or ids labels the
bodies; others that are no part of a table, such as a radius, are left out.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from jaxstepper.errors import UserError, require

Meaning = tuple[str, int]
"""("mass", 0), ("x", axis), ("v", axis) or ("extra", 0)."""

MASS: Meaning = ("mass", 0)
EXTRA: Meaning = ("extra", 0)
AXES = "xyz"
LETTERED = {
    "x": ("{}", "r{}", "pos{}", "position{}", "{}pos", "{}position"),
    "v": ("v{}", "u{}", "vel{}", "velocity{}", "{}vel", "{}velocity", "{}dot"),
}
NUMBERED = {"x": ("x", "r", "q", "pos", "position"), "v": ("v", "u", "vel", "velocity")}
EXTRAS = (
    *(
        "id",
        "ids",
        "hash",
        "index",
        "idx",
        "i",
        "n",
        "no",
        "number",
        "num",
        "nr",
        "body",
        "particle",
    ),
    *("star", "name", "label", "type", "kind", "r", "rad", "radius", "radii", "size", "eps"),
    *("epsilon", "softening", "soft", "hsml", "h", "density", "rho", "ax", "ay", "az"),
    *("a0", "a1", "a2", "phi", "pot", "potential", "t", "time"),
)
UNDERSTOOD = (
    "mass, x y z (or x0 x1 x2, pos_x), vx vy vz (or v0 v1 v2, vel_x), and to leave out id, name, "
    "radius and the like"
)
DIGITS = "0123456789"
# The first of these that a table has labels its bodies.
LABELS = ("name", "label", "body", "particle", "star", "id", "ids", "hash", "index", "idx")
# A unit in brackets at the end of a name; `x[0]` and `pos(x)` are names.
UNIT = re.compile(r"^(.*?)\s*[\[(]([^\[\]]*)[\])]\s*\"?'?$")
AXIS = re.compile(r"^\s*([xyzXYZ]|\d*)\s*$")


class Columns(NamedTuple):
    """What the columns of a table are.

    Attributes:
        numbers: the columns to read, in the order mass, x..., v....
        label: the column that names the bodies, if there is one.
        left_out: the names of the others.
    """

    numbers: list[int]
    label: int | None
    left_out: list[str]


def name_and_unit(name: str) -> tuple[str, str]:
    """The name of a column without its unit, and the unit or ""."""
    match = UNIT.match(name.strip())
    if match is None or AXIS.match(match[2]):
        return name, ""
    return match[1], match[2].strip()


def columns_of(names: Sequence[str], where: str) -> Columns:
    """What each column is.

    Args:
        names: of all columns.
        where: the beginning of a message, such as the file and its line.

    Raises:
        UserError: a name is unknown, two name one thing, or mass or a component is missing.
    """
    found: dict[Meaning, int] = {}
    extras: list[int] = []
    for at, (name, meaning) in enumerate(zip(names, _meanings(names), strict=True)):
        if meaning is None:
            raise UserError(f"{where}: column {name.strip()!r} is unknown; name {UNDERSTOOD}")
        if meaning == EXTRA:
            extras.append(at)
        elif meaning in found:
            both = f"{names[found[meaning]].strip()!r} and {name.strip()!r}"
            raise UserError(f"{where}: {both} name the same; keep one of them")
        else:
            found[meaning] = at
    require(MASS in found, f"{where}: no column is named mass; name {UNDERSTOOD}")
    dim = 1 + max((axis for kind, axis in found if kind != "mass"), default=0)
    wanted = [MASS, *(("x", axis) for axis in range(dim)), *(("v", axis) for axis in range(dim))]
    absent = [f"{kind}{axis}" for kind, axis in wanted if (kind, axis) not in found]
    message = f"no column is {' or '.join(absent)}; give a position and a velocity for every axis"
    require(not absent, f"{where}: {message}")
    plain = [_plain(name) for name in names]
    labels = [at for label in LABELS for at in extras if plain[at] == label]
    label = labels[0] if labels else None
    left_out = [names[at].strip().strip("\"'") for at in extras if at != label]
    return Columns([found[each] for each in wanted], label, left_out)


def are_names(words: Sequence[str]) -> bool:
    """Whether most of the words name a mass, position or velocity, as hardly any sentence does."""
    named = [each not in (None, EXTRA) for each in _meanings(words)]
    return 2 * sum(named) > len(named)


def may_be_names(words: Sequence[str]) -> bool:
    """Whether one of the words names a mass, position or velocity, as some in a sentence may."""
    return any(each not in (None, EXTRA) for each in _meanings(words))


def _meanings(names: Sequence[str]) -> list[Meaning | None]:
    """What each name stands for; None if it is unknown. Axes count from 0 or 1."""
    words = [_plain(name_and_unit(name)[0]) for name in names]
    meanings = [_meaning(word) for word in words]
    for kind in "xv":
        numbered = {
            at: meaning[1]
            for at, meaning in enumerate(meanings)
            if meaning is not None and meaning[0] == kind and words[at][-1] in DIGITS
        }
        if numbered and min(numbered.values()) == 1:
            meanings = [
                (kind, numbered[at] - 1) if at in numbered else meaning
                for at, meaning in enumerate(meanings)
            ]
    return meanings


def _meaning(word: str) -> Meaning | None:
    if word in ("m", "mass", "masses"):
        return MASS
    for kind in "xv":
        for axis, letter in enumerate(AXES):
            if word in [each.format(letter) for each in LETTERED[kind]]:
                return kind, axis
        stem = word.rstrip(DIGITS)
        if stem in NUMBERED[kind] and 0 < len(word) - len(stem) < 3:
            return kind, int(word[len(stem) :])
    if word == "v":  # of one dimension
        return "v", 0
    return EXTRA if word in EXTRAS else None


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " _-.[]()\"'\t")
