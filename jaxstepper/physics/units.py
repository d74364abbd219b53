"""Units: what lengths, times, speeds and masses are in, and the G that follows.

Nothing is converted on the way: bodies move in their own units, under the G of these. Only this
module imports astropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxstepper.errors import UserError, needing, require

SYSTEMS = {"si": ("m", "s", "kg"), "cgs": ("cm", "s", "g")}
# Words of other programs, in lower case, that astropy does not know.
ALIASES = {
    "msun": "Msun",
    "rsun": "Rsun",
    "mjup": "Mjup",
    "rjup": "Rjup",
    "mearth": "Mearth",
    "rearth": "Rearth",
    "parsec": "pc",
    "year": "yr",
    "years": "yr",
    "days": "d",
    "gyr": "Gyr",
    "kms": "km/s",
}
# What astropy would read as a thousandth of a year, and most would write for a million.
AMBIGUOUS = {"myr": "Myr is a million years; for a thousandth of one, write 1e-3 yr"}
HINT = "give a length, a time or a speed, and a mass, such as: au yr Msun, or pc km/s Msun"
KINDS = ("length", "time", "speed", "mass")


@dataclass(frozen=True)
class Units:
    """The units of bodies.

    Attributes:
        length: the name of the unit, as astropy writes it; likewise the others.
        time: if a speed was given, the time in which it covers the length.
        speed: if a time was given, the length in that time.
        mass: of masses.
    """

    length: str
    time: str
    speed: str
    mass: str

    @cached_property
    def G(self) -> float:
        """The gravitational constant in these units."""
        units, constants = _astropy()
        of = [units.Unit(each) for each in (self.length, self.speed, self.mass)]
        return float(constants.G.to_value(of[0] * of[1] ** 2 / of[2]))

    @property
    def names(self) -> dict[str, str]:
        """Each unit by what it is of, for files and JSON."""
        unit = _astropy()[0].Unit
        length, speed, mass = (unit(each) for each in (self.length, self.speed, self.mass))
        of = {"energy": mass * speed**2, "momentum": mass * speed}
        of["angular_momentum"] = mass * length * speed
        plain = {kind: getattr(self, kind) for kind in KINDS}
        return plain | {name: _name(each) for name, each in of.items()}

    @property
    def time_in_words(self) -> str:
        """The unit of time, in years if it is one that a speed made."""
        units = _astropy()[0]
        time = units.Unit(self.time)
        if len(time.bases) == 1:
            return self.time
        years = float(time.to(units.yr))
        words = f"{years:.6g} yr" if abs(years) < 1e5 else f"{years / 1e6:.6g} Myr"
        return f"{self.time} = {words}"

    def factor(self, kind: str, unit: str, where: str) -> float:
        """What numbers in `unit` are multiplied by to be in ours.

        Args:
            kind: "length", "time", "speed" or "mass".
            unit: the unit of the numbers.
            where: the beginning of a message.

        Raises:
            UserError: it is no unit, or not of this kind.
        """
        units, found = _astropy()[0], _unit(unit, where)
        try:
            return float(found.to(units.Unit(getattr(self, kind))))
        except units.UnitConversionError as error:
            raise UserError(f"{where}: {unit} is no unit of {kind}; name one that is") from error


def read_units(words: str | Sequence[str], where: str = "units") -> Units:
    """The units that these words name: a length, a time or a speed, and a mass; or si or cgs.

    Args:
        words: as typed.
        where: the beginning of a message, such as `--units`.

    Raises:
        UserError: astropy is missing, or the words name something else.
    """
    words = words.split() if isinstance(words, str) else words
    if len(words) == 1:
        words = SYSTEMS.get(words[0].lower(), tuple(words))
    require(len(words) == 3, f"{where} {' '.join(words)}: {HINT}")
    length, rate, mass = (_unit(word, where) for word in words)
    is_speed = rate.physical_type == "speed"
    kinds = ("length", "speed" if is_speed else "time", "mass")
    for word, unit, kind in zip(words, (length, rate, mass), kinds, strict=True):
        require(unit.physical_type == kind, f"{where}: {word} is no unit of {kind}; {HINT}")
    time = length / rate if is_speed else rate
    speed = rate if is_speed else length / rate
    return Units(*(_name(each) for each in (length, time, speed, mass)))


def to_value(quantity: Any, unit: str) -> Any:
    """The numbers of an astropy quantity in a unit; numbers without a unit stay as they are.

    Raises:
        UserError: it is not in such a unit.
    """
    if not hasattr(quantity, "to_value"):
        return quantity
    units = _astropy()[0]
    try:
        return quantity.to_value(units.Unit(unit))
    except units.UnitConversionError as error:
        raise UserError(f"{quantity.unit} cannot be given in {unit}; check the units") from error


def with_unit(values: Any, unit: str) -> Any:
    """Numbers as an astropy quantity."""
    units = _astropy()[0]
    return values * units.Unit(unit)


def _unit(word: str, where: str) -> Any:
    plain = word.strip().strip("\"'")
    if plain in AMBIGUOUS:
        raise UserError(f"{where}: {plain} is not understood: {AMBIGUOUS[plain]}")
    units = _astropy()[0]
    try:
        unit = units.Unit(ALIASES.get(plain.lower(), plain))
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {plain!r} is not understood as a unit; {HINT}") from error
    require(plain != "" and hasattr(unit, "physical_type"), f"{where}: {plain!r} is no unit")
    return unit


def _name(unit: Any) -> str:
    name = str(unit.to_string())
    for short, long in (("Msun", "solMass"), ("Mjup", "jupiterMass"), ("Mearth", "earthMass")):
        name = name.replace(long, short)
    return name


def _astropy() -> tuple[Any, Any]:
    """astropy's units and constants."""
    otherwise = "or leave them out and give the gravitational constant (--G)"
    with needing(f"units need astropy: pip install 'jaxstepper[units]'; {otherwise}"):
        from astropy import constants, units
    return units, constants
