"""What a model is good for: its ranges, the numbers of bodies in them, and where they are kept."""

import math
import shutil

import numpy as np
import pytest

from jaxstepper.physics.elements import from_elements
from jaxstepper.physics.initial_conditions import (
    hierarchical_triple,
    kepler_pair,
    orbit_of_pair,
    virial_system,
)
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.domain import outside, quantities, virial_radius, words_of_range
from jaxstepper.runs.models import load_rule
from jaxstepper.runs.seal import Damaged, check_seal


@pytest.mark.parametrize("phase", [0.0, 2.0, math.pi])
@pytest.mark.parametrize(("e", "a", "q", "total"), [(0.0, 1.0, 1.0, 1.0), (0.97, 3.0, 0.1, 5.0)])
def test_a_pair_has_the_orbit_it_was_made_with(phase, e, a, q, total):
    found = quantities(kepler_pair(e, a, q, total, phase), 0.0)
    assert found.pop("eccentricity") == pytest.approx(e, abs=1e-12)
    assert found == pytest.approx(
        {"bodies": 2, "semi_major": a, "total_mass": total, "mass_ratio": 1 / q, "softening": 0}
    )


def test_a_pair_that_is_not_bound_has_an_eccentricity_of_1_or_more():
    # At distance 2 with total mass 1 the speed of escape is 1.
    parabola = np.array([[0.5, 1, 0, 0, 0.5], [0.5, -1, 0, 0, -0.5]])
    assert orbit_of_pair(parabola).eccentricity == pytest.approx(1)
    hyperbola = parabola * [1, 1, 1, 1, 2]
    assert orbit_of_pair(hyperbola).eccentricity == pytest.approx(7)  # r v^2 / M - 1
    assert "semi_major" not in quantities(hyperbola, 0.0)


def test_more_bodies_and_softened_ones_have_no_orbit():
    assert "eccentricity" not in quantities(kepler_pair(0.5), 0.1)
    found = quantities(hierarchical_triple(masses=(1.0, 4.0, 2.0)), 0.0)
    assert found == {"bodies": 3, "mass_ratio": 4, "softening": 0}


def test_softening_is_in_units_of_the_virial_radius():
    sphere = virial_system(np.random.default_rng(0), [1.0] * 64)  # in Henon units it is 1
    assert virial_radius(sphere, 1e-6) == pytest.approx(1, rel=1e-6)
    larger = sphere * [1, *3 * [100], *3 * [0.1]]
    assert quantities(larger, 1.0)["softening"] == pytest.approx(0.01, rel=1e-3)
    # All along its orbit a pair of equal masses has 2 a.
    for phase in (0.0, 1.0, math.pi):
        assert virial_radius(kepler_pair(0.9, phase=phase), 1e-9) == pytest.approx(2)


def test_the_mass_ratio_of_a_massless_body_is_the_limit_of_that_of_light_ones():
    table = np.array([[1.0, 0, 0, 0, 0], [0.0, 1, 0, 0, 1]])
    said = outside({"mass_ratio": [1, 100]}, [quantities(table, 0.0)])
    assert said == ["mass ratio inf, not 1 to 100"]


def test_what_is_outside_is_said_with_its_number():
    domain = {"bodies": [2, 8], "eccentricity": [None, 0.97], "tolerance": [1e-6, None]}
    inside = {"bodies": 2, "eccentricity": 0.97 * (1 + 1e-9), "tolerance": 1.0}
    assert outside(domain, [inside]) == []
    assert outside(domain, [inside, inside | {"eccentricity": 0.999}]) == [
        "eccentricity 0.999, not up to 0.97"
    ]
    assert outside(domain, [{"bodies": 9, "tolerance": 1e-9}]) == [
        "bodies 9, not 2 to 8",
        "tolerance 1e-09, not from 1e-06 on",
    ]
    assert words_of_range([2, 2]) == "2"


def test_notes_go_into_a_checkpoint_that_stays_sealed(tmp_path):
    path = tmp_path / "run" / "79"
    shutil.copytree(folders.SHIPPED / "clusters" / "79", path)
    before = checkpoints.read(path)
    checkpoints.annotate(path, {"trained_on": "spheres", "domain": {"bodies": [1, 2]}})
    after = checkpoints.read(path)
    assert after.about == before.about | {"trained_on": "spheres", "domain": {"bodies": [1, 2]}}
    assert (after.config, after.metrics) == (before.config, before.metrics)
    (path / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(Damaged):
        checkpoints.annotate(path, {})


def test_a_program_is_warned_of_a_tolerance_outside():
    with pytest.warns(UserWarning, match="kepler is known.*: tolerance 0.1, not 1e-06 to 0.01"):
        load_rule("kepler", tolerance=0.1)


@pytest.mark.parametrize("name", folders.shipped())
def test_every_shipped_model_says_what_it_is_good_for(name):
    (path,) = folders.paths_of(folders.SHIPPED / name)
    check_seal(path)
    words = checkpoints.words_of(path)
    assert words["about"]["trained_on"]
    domain = words["about"]["domain"]
    # The bodies that it was trained on are among them.
    low, high = domain["bodies"]
    assert low <= words["config"]["num_particles"] <= high


def test_planets_are_outside_of_what_kepler_is_good_for():
    planets = from_elements([1.0, 1e-3, 1e-4], [1.0, 2.0], e=0.05)
    (path,) = folders.paths_of(folders.SHIPPED / "kepler")
    domain = checkpoints.words_of(path)["about"]["domain"]
    assert outside(domain, [quantities(planets, 0.0)]) == ["bodies 3, not 2"]
    assert outside(domain, [quantities(planets[:2], 0.0)]) == []
