"""Bodies from other programs, and back: rebound, astropy, and a stand-in for AMUSE."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.particles import to_table

rebound = pytest.importorskip("rebound")


def simulation():
    sim = rebound.Simulation()
    sim.units = "AU", "yr", "Msun"
    sim.t = 3.5
    sim.softening = 0.25
    sim.add(m=1.0, name="Sun")
    sim.add(m=1e-3, a=5.2, e=0.05, inc=0.1, name="Jupiter")
    sim.add(m=0, a=2.7, e=0.1)  # a test particle
    sim.move_to_com()
    return sim


def test_rebound_there_and_back():
    sim = simulation()
    particles, gravity, names = js.from_rebound(sim)
    assert (gravity.G, gravity.softening) == (sim.G, 0.25)
    assert names == ("Sun", "Jupiter", "2")
    assert float(particles.time) == 3.5
    theirs = [[p.m, p.x, p.y, p.z, p.vx, p.vy, p.vz] for p in sim.particles]
    np.testing.assert_array_equal(to_table(particles), theirs)
    back = js.to_rebound(particles, gravity, names)
    assert back.energy() == pytest.approx(sim.energy(), rel=1e-14)
    hard = js.Gravity(G=gravity.G)  # the energy of rebound leaves the softening out
    assert float(js.total_energy(particles, hard)) == pytest.approx(sim.energy(), rel=1e-12)
    assert (back.t, back.G, back.softening) == (sim.t, sim.G, sim.softening)
    assert back.particles["Jupiter"].x == sim.particles["Jupiter"].x


def test_accelerations_are_those_of_rebound():
    sim = simulation()
    particles, _, _ = js.from_rebound(sim)
    sim.integrator, sim.dt = "leapfrog", 1e-9
    sim.steps(1)
    theirs = [[p.ax, p.ay, p.az] for p in sim.particles]
    np.testing.assert_allclose(particles.acceleration, theirs, rtol=1e-6, atol=1e-7)


def test_an_archive_of_rebound(tmp_path):
    sim, path = simulation(), tmp_path / "archive.bin"
    sim.save_to_file(str(path))
    first = sim.particles[1].x
    sim.integrate(4.5)
    sim.save_to_file(str(path))
    assert float(js.from_rebound(path).particles.time) == 4.5
    begin = js.from_rebound(str(path), snapshot=0)
    assert float(begin.particles.position[1, 0]) == first
    with pytest.raises(UserError, match="there is no such file"):
        js.from_rebound(tmp_path / "none.bin")


def test_bodies_in_a_plane_go_to_rebound():
    pair = js.from_table(js.kepler_pair(0.5), js.Gravity().acceleration)
    sim = js.to_rebound(pair)
    assert [p.z for p in sim.particles] == [0, 0]
    assert sim.energy() == pytest.approx(float(js.total_energy(pair, js.Gravity())))


def test_quantities_of_astropy():
    from astropy import units as u

    position, velocity = [[0, 0], [149597870.7, 0]] * u.km, [[0, 0], [0, 29.7847]] * u.km / u.s
    particles, gravity, names = js.from_quantities([1.989e30, 0] * u.kg, position, velocity)
    assert pytest.approx(4 * np.pi**2, rel=1e-4) == gravity.G and names == ()
    np.testing.assert_allclose(particles.mass, [1, 0], rtol=1e-3)
    np.testing.assert_allclose(particles.position, [[0, 0], [1, 0]], rtol=1e-12)
    np.testing.assert_allclose(particles.velocity[1, 1], 2 * np.pi, rtol=1e-4)
    back = js.to_quantities(particles)
    np.testing.assert_allclose(back["velocity"].to_value(u.km / u.s)[1, 1], 29.7847)
    assert back["time"].unit == u.yr
    with pytest.raises(UserError, match="km cannot be given in Msun"):
        js.from_quantities([1, 1] * u.km, position, velocity)


class Quantity:
    """A stand-in for AMUSE's quantities: numbers and a unit, which is a factor to SI."""

    __array_priority__ = 100

    def __init__(self, number, unit):
        self.number, self.unit = np.asarray(number, float), unit

    def value_in(self, unit):
        assert self.unit.kind == unit.kind
        return self.number * self.unit.factor / unit.factor


class Unit(SimpleNamespace):
    __array_ufunc__ = None  # `numbers | unit` is for us

    def __ror__(self, number):
        return Quantity(number, self)


class Set(SimpleNamespace):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


@pytest.fixture(params=["stand-in", "AMUSE"])
def amuse(request, monkeypatch):
    """What is used of AMUSE, which cannot be installed everywhere; and itself, where it is."""
    if request.param == "AMUSE":
        pytest.importorskip("amuse.datamodel")
        from amuse.units import nbody_system, units

        return SimpleNamespace(units=units, nbody_system=nbody_system)
    si = SimpleNamespace(
        kg=Unit(kind="kg", factor=1.0),
        m=Unit(kind="m", factor=1.0),
        ms=Unit(kind="m/s", factor=1.0),
        MSun=Unit(kind="kg", factor=1.98892e30),
        AU=Unit(kind="m", factor=149597870700.0),
        kms=Unit(kind="m/s", factor=1000.0),
    )
    nbody = SimpleNamespace(
        **{name: Unit(kind=f"nbody {name}", factor=1.0) for name in ("mass", "length", "speed")}
    )
    modules = {
        "amuse": ModuleType("amuse"),
        "amuse.units": SimpleNamespace(units=si, nbody_system=nbody),
        "amuse.datamodel": SimpleNamespace(Particles=Set),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return SimpleNamespace(units=si, nbody_system=nbody)


def test_a_set_of_amuse_there_and_back(amuse):
    u = amuse.units
    bodies = SimpleNamespace(mass=[1, 1e-3] | u.MSun, name=["Sun", "Jupiter"])
    for axis in "xyz":
        setattr(bodies, axis, [0, 5.2 * (axis == "x")] | u.AU)
        setattr(bodies, f"v{axis}", [0, 13.06 * (axis == "y")] | u.kms)
    particles, gravity, names = js.from_amuse(bodies)
    assert names == ("Sun", "Jupiter")
    assert pytest.approx(4 * np.pi**2, rel=1e-4) == gravity.G
    # Its solar mass is heavier than that of astropy, 1.988409870698051e30 kg.
    np.testing.assert_allclose(particles.mass, [1.000256551, 1.000256551e-3], rtol=1e-9)
    np.testing.assert_allclose(particles.position[1], [5.2, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(particles.velocity[1, 1], 13.06 * 2 * np.pi / 29.7847, rtol=1e-4)
    back = js.to_amuse(particles, names=names)
    np.testing.assert_allclose(back.vy.value_in(u.kms), [0, 13.06], rtol=1e-12)
    np.testing.assert_allclose(back.x.value_in(u.AU), [0, 5.2], rtol=1e-12)
    np.testing.assert_allclose(back.mass.value_in(u.MSun), [1, 1e-3], rtol=1e-12)
    assert list(back.name) == ["Sun", "Jupiter"] and len(back) == 2


def test_a_set_of_amuse_in_nbody_units(amuse):
    n = amuse.nbody_system
    bodies = SimpleNamespace(mass=[1, 1] | n.mass)
    for axis in "xyz":
        setattr(bodies, axis, [0, 1] | n.length)
        setattr(bodies, f"v{axis}", [0, 2] | n.speed)
    particles, gravity, names = js.from_amuse(bodies, units=None)
    assert (gravity.G, names) == (1, ())
    np.testing.assert_array_equal(particles.velocity[1], [2, 2, 2])
    np.testing.assert_array_equal(js.to_amuse(particles, units=None).vz.value_in(n.speed), [0, 2])


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("rebound", lambda: js.to_rebound(js.from_rebound(simulation()).particles)),
        ("amuse", lambda: js.from_amuse(None)),
        ("astropy", lambda: js.from_quantities(1, 1, 1)),
    ],
)
def test_what_is_missing_is_named(monkeypatch, package, call):
    if package == "rebound":
        particles = js.from_rebound(simulation()).particles
        call = lambda: js.to_rebound(particles)  # noqa: E731
    for name in (package, f"{package}.units"):  # also if it is imported already
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="needs? (rebound|AMUSE|astropy)"):
        call()
