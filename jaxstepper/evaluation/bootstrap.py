"""How sure a ratio of work is: the bootstrap over systems (Efron 1979; numpy, on the host).

Systems are drawn again, with replacement, as many as there are; everything is computed from those
of every draw, and the interval holds the middle 95 % of the results. Draws are paired: rules that
are compared get the same systems, so that what is hard for both does not count.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from jaxstepper.evaluation.curves import Curve, work_at

DRAWS, CONFIDENCE, SEED = 1000, 0.95, 0


@lru_cache(maxsize=1024)
def work_of_draws(curve: Curve, target: float) -> Float[np.ndarray, " R"]:
    """Evaluations per unit that a rule needs, for each draw of systems; infinite if it misses.

    The draws depend on the number of systems only, and so are the same for all rules of a problem.
    """
    systems = curve.errors_of.shape[1]
    drawn = np.random.default_rng(SEED).integers(systems, size=(DRAWS, systems))
    errors, work = (
        # `[F, R, B]` to `[R, F]`.
        np.median(values[:, drawn], axis=-1).T
        for values in (curve.errors_of, curve.evaluations_of)
    )
    needed = work_at(errors, work, target)
    return np.where(np.isnan(needed), np.inf, needed)


def ratio_interval(curve: Curve, other: Curve, target: float) -> tuple[float, float] | None:
    """The 95 % interval of the ratio of the work of one rule to that of another.

    Args:
        curve: the rule.
        other: what it is compared with, on the same systems.
        target: the error that both reach.

    Returns:
        Both ends; the upper one is infinite if the rule misses the error in too many draws. None
        for a single system, which tells nothing of others.
    """
    if curve.errors_of.shape[1] < 2:
        return None
    mine, others = work_of_draws(curve, target), work_of_draws(other, target)
    # Draws in which the other misses the error say nothing.
    known = np.isfinite(others)
    if not known.any():
        return None
    tail = (1 - CONFIDENCE) / 2
    # Values of draws, since none lies between a number and infinity.
    ratios = mine[known] / others[known]
    low, high = np.quantile(ratios, [tail, 1 - tail], method="nearest")
    return float(low), float(high)
