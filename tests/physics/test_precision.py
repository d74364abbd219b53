"""Whether bodies fit a floating-point type: what is refused, and in which words."""

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics import precision
from jaxstepper.physics.precision import check_precision

GOOD = np.array([[1.0, 0.5, 0, 0, 0.5], [1.0, -0.5, 0, 0, -0.5]])


def refusal(table, dtype="float64", softening=0.0):
    tables = np.asarray(table)
    tables = tables[None] if tables.ndim == 2 else tables
    with pytest.raises(UserError) as caught:
        check_precision(tables, "t.txt", dtype, softening)
    return str(caught.value)


def changed(body, column, value):
    table = GOOD.copy()
    table[body, column] = value
    return table


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ordinary_bodies_pass(dtype):
    check_precision(GOOD[None], "t.txt", dtype, 0.1)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(0, 0, 1e-50), "body 0 (counted from 0) has a value that overflows or vanishes"),
        (changed(1, 1, 1e39), "body 1 (counted from 0) has a value that overflows or vanishes"),
        (changed(1, 4, 1e25), "body 1 (counted from 0) has a kinetic energy that overflows"),
        (changed(1, 1, 0.5 + 1e-12), "body 0 (counted from 0) and body 1 are in the same place"),
        (changed(1, 1, 1e20), "are too far apart"),
        (GOOD * [1, 1e-15, 1, 1, 1], "are so close or heavy that their force overflows"),
        (GOOD * [1e30, 1, 1, 1, 1], "are so close or heavy that their energy overflows"),
    ],
)
def test_float32_is_refused_where_float64_is_wide_enough(table, words):
    message = refusal(table, "float32")
    assert message.startswith("t.txt: ") and words in message
    assert message.endswith("in float32; choose other units, or --dtype float64")


def test_softening_keeps_bodies_in_the_same_place_apart():
    together = changed(1, 1, 0.5)
    assert "are in the same place in float64; choose other units" in refusal(together)
    check_precision(together[None], "t.txt", "float64", 0.1)
    assert "its square overflows in float32" in refusal(GOOD, "float32", 1e30)


def test_the_first_faulty_system_of_a_batch_is_named():
    message = refusal(np.stack([GOOD, changed(1, 1, 0.5), GOOD]))
    assert message.startswith("t.txt: system 1, body 0")


@pytest.mark.parametrize("count", [50, 400])
def test_two_bodies_in_one_place_are_found_among_few_and_among_many(count, monkeypatch):
    """All pairs of few bodies are looked at; of many, the neighbours along x."""
    monkeypatch.setattr(precision, "ALL_PAIRS_UP_TO", 100)
    draw = np.random.default_rng(0)
    table = np.concatenate([np.ones((count, 1)), draw.normal(size=(count, 4))], axis=1)
    check_precision(table[None], "t.txt", "float64", 0.0)
    table[7, 1:3] = table[31, 1:3]
    assert "body 7 (counted from 0) and body 31 are in the same place" in refusal(table)
