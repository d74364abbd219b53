"""A device call that will take minutes is warned of before it starts."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from training.small_runs import PLAN, TABLES

from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.runs.start import warn_of_long_calls
from jaxstepper.training.windows.objective import Windows

DEFAULT = StepNetwork()  # of two-phase training: 1.4 million weights
WINDOWS = Windows(
    replace(DEFAULT, hidden_dims=(32, 32)), FeatureSpec("orbital"), PLAN.gravity, PLAN.optimizer
)


@pytest.mark.parametrize(
    ("objective", "tables"),
    [
        (PLAN, np.zeros((1, 100_000, 7))),
        (WINDOWS, np.zeros((1, 10_000, 7))),
        # Ten minutes an epoch, of twenty such calls, when it was the default.
        (replace(WINDOWS, network=DEFAULT), plummer(0, 8)[None]),
    ],
    ids=["bodies", "bodies, window", "network"],
)
def test_minutes_are_warned_of(objective, tables):
    with pytest.warns(UserWarning, match=r"one device call will take about \d+ minutes"):
        warn_of_long_calls(objective, tables)


@pytest.mark.parametrize(
    ("objective", "tables"),
    [
        (replace(PLAN, network=DEFAULT), TABLES),
        (replace(PLAN, network=DEFAULT, retrain_batch=256), np.zeros((1024, 3, 5))),
        (WINDOWS, np.zeros((1024, 2, 5))),
    ],
)
def test_seconds_are_not(objective, tables):
    with warnings.catch_warnings(action="error"):
        warn_of_long_calls(objective, tables)
