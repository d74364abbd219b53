"""The settings of training on windows."""

from dataclasses import dataclass

import flax.linen as nn
import optax

from jaxstepper.network.features import FeatureSpec
from jaxstepper.physics.gravity import Gravity
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.scheme import Scheme


@dataclass(frozen=True)
class WindowPlan:
    """The settings of training on windows, which do not change while it runs; hashable.

    Attributes:
        network: the network.
        features: its inputs.
        gravity: what moves the bodies.
        scheme: takes the steps.
        optimizer: an optax transformation.
        iterations: optimiser steps in an epoch.
        batch: windows in an iteration.
        steps: the most steps in a window.
        spans: the longest window, in spans of its system.
        span: the length of a span in time; None for the orbital period of each pair.
        start: the latest start of a window, in spans.
        tolerances: the smallest and the largest that are drawn; equal if the network sees none.
        unit_spread: units of mass and length vary between windows by up to this factor, either way.
        softening_spread: each system is up to this many times larger, with the softening as it is.
        imitation: epochs at the start in which the network learns the free-fall rule's dt.
    """

    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    iterations: int = 20
    batch: int = 32
    steps: int = 1024
    spans: float = 12.0
    span: float | None = None
    tolerances: tuple[float, float] = (1e-3, 3e-2)
    unit_spread: float = 1.0
    softening_spread: float = 1.0
    imitation: int = 0
    start: float = 0.0
    scheme: Scheme = Rule.scheme
