"""The host loop of work that takes many device calls, and the budget of a call.

A call should last a few seconds, so that the work can be interrupted, watched and saved in between.
"""

import time
from collections.abc import Callable

from jaxstepper.machine.processes import from_main

SECONDS_PER_CALL = 2.0


def next_budget(budget: int, used: int, seconds: float, least: int, most: int) -> int:
    """Units of work, between `least` and `most`, for a call of about `SECONDS_PER_CALL`.

    The last call used `used` units of its `budget` and took `seconds`, compilation included.
    """
    if used < budget:
        return budget
    fitting = int(used * SECONDS_PER_CALL / max(seconds, 1e-3))
    return min(max(fitting, least), 4 * budget, most)


def in_bounded_calls(call: Callable[[int], tuple[int, bool]], first: int, most: int) -> None:
    """The host loop of work that takes more than one device call.

    Args:
        call: makes a device call with a budget of units of work; returns the units it used, and
            whether there is more to do. All processes of a run must make the same calls.
        first: the units of the first call, and the fewest of any.
        most: the most units of any call.
    """
    budget, goes_on = first, True
    while goes_on:
        began = time.perf_counter()
        used, goes_on = call(budget)
        seconds = time.perf_counter() - began
        budget = from_main(next_budget(budget, used, seconds, first, most))
