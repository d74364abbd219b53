"""The host loop of everything that takes many device calls, and how much work a call gets.

A call should last a few seconds, so that the work can be interrupted, watched and saved in between.
"""

import time
from collections.abc import Callable

from jaxstepper.machine.processes import from_main

SECONDS_PER_CALL = 2.0


def next_budget(budget: int, used: int, seconds: float, least: int, most: int) -> int:
    """Units of work for the next call, which will take about `SECONDS_PER_CALL`.

    Args:
        budget: units that the last call was allowed.
        used: units that it used.
        seconds: how long it took, compilation included.
        least: lower bound of the result.
        most: upper bound of the result.
    """
    if used < budget:
        return budget
    fitting = int(used * SECONDS_PER_CALL / max(seconds, 1e-3))
    return min(max(fitting, least), 4 * budget, most)


def in_bounded_calls(call: Callable[[int], tuple[int, bool]], first: int, most: int) -> None:
    """The host loop of everything that takes more than one device call.

    Args:
        call: makes a device call that does up to so many units of work; returns the units it used,
            and whether there is more to do. All processes of a run must make the same calls.
        first: units of the first call; later calls get no fewer.
        most: units that no call exceeds.
    """
    budget, goes_on = first, True
    while goes_on:
        began = time.perf_counter()
        used, goes_on = call(budget)
        seconds = time.perf_counter() - began
        budget = from_main(next_budget(budget, used, seconds, first, most))
