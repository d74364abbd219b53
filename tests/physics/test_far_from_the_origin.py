"""Bodies that rounding would spoil, far from the origin or fast, are refused with the cure."""

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics.initial_conditions import plummer_batch
from jaxstepper.physics.precision import check_precision

PAIR = np.array([[0.5, -0.75, 0, 0, -0.28867513], [0.5, 0.75, 0, 0, 0.28867513]])


def moved(table, offset=0.0, boost=0.0):
    dim = (table.shape[-1] - 1) // 2
    return table + np.array([0.0, *[offset] * dim, *[boost] * dim])


def check(table, dtype="float32", softening=0.0):
    check_precision(table[None], "bodies", dtype, softening)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("offset", "dtype"), [(1e4, "float32"), (-1e6, "float32"), (1e13, "float64")]
)
def test_bodies_far_from_the_origin_are_refused_with_the_cure(offset, dtype, unit):
    table = moved(PAIR, offset) * [1, unit, unit, unit**-0.5, unit**-0.5]
    with pytest.raises(UserError, match="subtract the barycentre") as refused:
        check(table, dtype)
    assert ("--dtype float64" in str(refused.value)) == (dtype == "float32")
    check(PAIR * [1, unit, unit, unit**-0.5, unit**-0.5], dtype)


def test_bodies_that_drift_fast_are_refused_and_in_float64_are_not():
    with pytest.raises(UserError, match="drift so fast"):
        check(moved(PAIR, boost=1e5))
    check(moved(PAIR, boost=1e5), "float64")
    check(moved(PAIR, offset=1e9), "float64")


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0])
def test_bodies_about_the_origin_or_near_it_are_not(offset):
    check(moved(PAIR, offset, offset))
    check(moved(plummer_batch(0, 1, 100)[0], offset))


def test_what_centring_would_not_cure_is_not_blamed_on_the_origin():
    # A pair so tight that float32 does not resolve it well, far out in a cluster about the origin.
    cluster = plummer_batch(1, 1, 20)[0]
    tight = cluster[-1] + np.array([0, 1e-4, 0, 0, 0, 0, 0])
    check(np.vstack([cluster, tight]))
