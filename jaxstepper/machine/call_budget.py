"""How much a device call is given to do.

A call aims to last some seconds, so that what it is part of can be interrupted, watched and saved.
"""

SECONDS_PER_CALL = 2.0


def next_budget(budget: int, used: int, seconds: float, least: int, most: int) -> int:
    """Units of work for the next call, which will take about `SECONDS_PER_CALL`.

    Args:
        budget: of the last call.
        used: of it.
        seconds: that the last call took; those of compiling count too.
        least: and `most`, bounds of the result.
    """
    if used < budget:
        return budget
    fitting = int(used * SECONDS_PER_CALL / max(seconds, 1e-3))
    return min(max(fitting, least), 4 * budget, most)
