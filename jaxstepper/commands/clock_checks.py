"""Whether a clock can count the time of a rollout, and whether its steps can be counted."""

import math
from collections.abc import Sequence

import numpy as np

from jaxstepper.errors import require
from jaxstepper.settings.request import Request
from jaxstepper.stepping.rollout import MOST_STEPS

# The share of a rollout's time that may be lost to rounding at its end.
MOST_ROUNDING = 1e-3


def check_times(request: Request, span: float) -> None:
    """Refuses a start so far from 0 that times of a rollout of this length are rounded away.

    Raises:
        UserError: they are, or those between the states that are recorded.
    """
    config = request.config
    with np.errstate(over="ignore"):
        farthest = np.dtype(config.dtype).type(abs(config.start_time) + span)
    wider = "" if config.dtype == "float64" else ", or use --dtype float64"
    message = f"a rollout of {span:g} overflows in {config.dtype}; choose other units{wider}"
    require(bool(np.isfinite(farthest)), message)
    apart = float(np.spacing(farthest))
    shown = f"times near {farthest:g} are {apart:.2g} apart in {config.dtype}"
    if span > 0 and apart > MOST_ROUNDING * span:
        rule = f"{shown}, too much for a rollout of {span:g}; start nearer to 0{wider}"
        raise request.refusal("start_time", rule)
    if config.output_every is not None and apart > config.output_every:
        raise request.refusal("output_every", f"{shown}; give more{wider}")


def check_counts(request: Request, dt: float, spans: Sequence[float]) -> None:
    """Refuses rollouts of so long in steps of dt, of which there are more than can be counted.

    Raises:
        UserError: there are.
    """
    longest = max((span for span in spans if math.isfinite(span)), default=0.0)
    if longest / dt > MOST_STEPS:
        name = "dt" if request.config.dt > 0 else "eta"
        rule = f"makes {longest / dt:.2g} steps, more than can be counted ({MOST_STEPS}); give more"
        raise request.refusal(name, rule)
