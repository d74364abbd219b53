"""How much a device call is given to do."""

import pytest

from jaxstepper.machine.call_budget import next_budget


@pytest.mark.parametrize(
    ("budget", "used", "seconds", "expected"),
    [
        (100, 100, 2.0, 100),  # as long as it should be
        (100, 100, 1.0, 200),
        (100, 100, 8.0, 25),
        (100, 100, 0.01, 400),  # at most four times as much, for the first may not be typical
        (100, 100, 200.0, 10),  # the least
        (900, 900, 0.01, 1000),  # the most
        (100, 30, 0.01, 100),  # work ended, which says nothing of the next call
    ],
)
def test_a_call_aims_at_two_seconds(budget, used, seconds, expected):
    assert next_budget(budget, used, seconds, 10, 1000) == expected
