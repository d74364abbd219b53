"""Result codes in the state of a training run; the first failure stays."""

RUNNING, STUCK, NOT_FINITE, RETIRED = 0, 1, 2, 3
"""All is well; a step exceeded the retrain cap; the network or its dt is not finite; every system
has reached its end time."""

STOPPED = {STUCK: "stuck", NOT_FINITE: "not finite", RETIRED: "retired"}
"""The word for each code that ends a run early."""
