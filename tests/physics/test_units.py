"""Units by name, and the G that follows."""

import sys

import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics.units import Units, read_units, to_value


@pytest.mark.parametrize(
    ("words", "G"),
    [
        # Gauss's constant squared; G of CODATA 2018; and what astronomers know by heart.
        ("au d Msun", 0.01720209895**2),
        ("au yr msun", 0.01720209895**2 * 365.25**2),
        ("si", 6.6743e-11),
        ("cgs", 6.6743e-8),
        ("m s kg", 6.6743e-11),
        ("pc km/s Msun", 4.30091e-3),
        ("kpc km/s Msun", 4.30091e-6),
        ("pc Myr Msun", 4.49850e-3),
    ],
)
def test_G_is_that_of_the_literature(words, G):
    assert pytest.approx(G, rel=3e-6) == read_units(words).G


def test_a_speed_makes_the_time_and_a_time_the_speed():
    assert read_units("pc km/s Msun") == Units("pc", "pc s / km", "km / s", "Msun")
    assert read_units(["AU", "yr", "Msun"]) == Units("AU", "yr", "AU / yr", "Msun")
    assert read_units("pc km/s Msun").time_in_words == "pc s / km = 0.977792 Myr"
    assert read_units("au yr Msun").time_in_words == "yr"
    assert read_units("si").names["energy"] == "m2 kg / s2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("yr au Msun", "yr is no unit of length"),
        ("au yr", "give a length, a time or a speed, and a mass"),
        ("au yr stone_", "'stone_' is not understood as a unit"),
        ("pc myr Msun", "myr is not understood: Myr is a million years"),
        ("au Msun yr", "Msun is no unit of time"),
        ("au km/s km", "km is no unit of mass"),
    ],
)
def test_other_words_are_refused(words, said):
    with pytest.raises(UserError) as caught:
        read_units(words, "--units")
    assert said in str(caught.value)
    assert str(caught.value).startswith("--units") and "\n" not in str(caught.value)


def test_a_missing_astropy_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(UserError, match=r"units need astropy: pip install .*--G"):
        read_units("au yr Msun")


def test_factors():
    units = read_units("au yr Msun")
    assert units.factor("length", "km", "x") == pytest.approx(1 / 149597870.7)
    # The speed of the Earth, in both.
    assert units.factor("speed", "km/s", "v") * 29.7847 == pytest.approx(6.2832, rel=1e-4)
    with pytest.raises(UserError, match="x: km is no unit of mass"):
        units.factor("mass", "km", "x")


def test_numbers_of_quantities():
    from astropy import units as u

    assert to_value(1 * u.au, "km") == pytest.approx(149597870.7)
    assert to_value(3.0, "km") == 3.0
    with pytest.raises(UserError, match="kg cannot be given in km"):
        to_value(1 * u.kg, "km")
