"""The units of the network's inputs: given, or those of the initial states."""

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.runs.plans import make_features, with_scales
from jaxstepper.settings.command_line import parse

# Two bodies 2 apart about a barycentre at rest, of speeds 4 and 1, accelerations 1 and 1/4 (G = 1).
TABLES = np.array([[[1.0, 1, 0, 0, 4], [4.0, -1, 0, 0, -1]]])


def scales(flags):
    config = parse("train", ["--normalize-inputs", *flags.split()]).config
    return tuple(make_features(with_scales(config, TABLES)).scales.__dict__.values())


@pytest.mark.parametrize(
    ("more", "acceleration", "time"),
    [
        ("", 9 / 2, 2 / 3),
        ("--norm-A0 7", 7, 2 / 3),
        ("--norm-T0 5", 9 / 2, 5),
        ("--norm-A0 7 --norm-T0 5", 7, 5),
    ],
)
def test_of_given_scales_the_others_follow(more, acceleration, time):
    expected = (2, 3, acceleration, time)
    given = f"--norm-mode manual --norm-L0 2 --norm-V0 3 {more}"
    np.testing.assert_allclose(scales(given), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("given", "missing"),
    [("", "norm_L0"), ("--norm-V0 3", "norm_L0"), ("--norm-L0 2", "norm_V0")],
)
def test_length_and_speed_must_be_given_both(given, missing):
    with pytest.raises(UserError, match=f"--norm-mode manual: needs {missing} too"):
        parse("train", f"--norm-mode manual {given}".split())


def test_automatic_scales_are_those_of_the_initial_states_unless_all_are_given():
    speed, acceleration = np.sqrt((16 + 1) / 2), np.sqrt((1 + 1 / 16) / 2)
    np.testing.assert_allclose(scales(""), (2, speed, acceleration, 2 / speed), rtol=1e-12)
    every = "--norm-L0 2 --norm-V0 3 --norm-A0 7 --norm-T0 5"
    assert scales(every) == (2, 3, 7, 5)


def test_inputs_that_are_not_normalised_have_no_scales():
    config = parse("train", ["--norm-L0", "2"]).config
    assert with_scales(config, TABLES) is config
    assert set(make_features(config).scales.__dict__.values()) == {1.0}
