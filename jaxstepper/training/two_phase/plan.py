"""The settings of two-phase training."""

from dataclasses import dataclass, field

import flax.linen as nn
import optax
from jax.sharding import Mesh

from jaxstepper.network.features import FeatureSpec
from jaxstepper.physics.gravity import Gravity
from jaxstepper.training.two_phase.gate import Gate


@dataclass(frozen=True)
class Plan:
    """The settings of two-phase training, which do not change while it runs; hashable.

    Attributes:
        network: the network.
        features: its inputs.
        gravity: what moves the bodies.
        optimizer: an optax transformation.
        gate: the requirements on a trial step.
        steps_per_epoch: the steps that each system must take in an epoch.
        max_retrain_steps: retrain iterations on one step before training gives up; 0: never.
        retrain_batch: the most systems that are tried at once in phase 1.
        replay_steps: the most iterations of phase 2 in an epoch.
        replay_batch_size: samples in an iteration of phase 2.
        min_replay_size: with fewer samples, phase 2 is skipped.
        calibrated: whether a fresh network starts from a dt whose energy error lies in the band.
        stop_at_period: whether a bound pair retires after one orbital period.
        mesh: the devices that share the systems; None for one device.
    """

    network: nn.Module
    features: FeatureSpec
    gravity: Gravity
    optimizer: optax.GradientTransformation
    gate: Gate = field(default_factory=Gate)
    steps_per_epoch: int = 1
    max_retrain_steps: int = 1000
    retrain_batch: int = 256
    replay_steps: int = 1000
    replay_batch_size: int = 512
    min_replay_size: int = 2
    calibrated: bool = True
    stop_at_period: bool = False
    mesh: Mesh | None = None
