"""The content of a checkpoint of the torch simulator, as numpy arrays and plain values."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from jaxstepper.errors import UserError
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.step_network import Variables
from jaxstepper.torch_files.state_dict import (
    adam_from_state_dict,
    from_state_dict,
    network_shape,
    to_state_dict,
)
from jaxstepper.torch_files.variants import ANEW, unwrapped

FEATURE_TYPES = ("delta_mag", "basic", "rich")


@dataclass(frozen=True)
class TorchCheckpoint:
    """The content of a checkpoint file: numpy arrays and plain values.

    Attributes:
        epoch: the epoch it was saved after, from 0.
        variables: the network's weights and constants.
        optimizer: torch's state_dict of an optimiser (see `adam_state_dict`), or None.
        has_dropout: whether the stack has dropout layers, which shift the names of the others.
        config: the flat config; keys that we do not know are kept.
        history_len: K, number of past states in the features.
        feature_type: one of `FEATURE_TYPES`.
        dtype: one of `DTYPES`.
        train_ic: table of bodies `[N, 1 + 2 D]` at the start of the training, a batch of them
            `[B, N, 1 + 2 D]`, or None.
        loss: the loss of the epoch, or None.
        info: plain values, or None.
        logs: plain values and arrays, or None.
        config_summary: one line.
    """

    epoch: int
    variables: Variables
    optimizer: dict | None
    has_dropout: bool
    config: dict[str, Any]
    history_len: int
    feature_type: str
    dtype: str
    train_ic: np.ndarray | None = None
    loss: float | None = None
    info: dict | None = None
    logs: dict | None = None
    config_summary: str = ""

    @property
    def adam(self) -> optax.ScaleByAdamState | None:
        """The state of our Adam; None if there is none."""
        return adam_from_state_dict(self.optimizer, self.variables)


def to_content(checkpoint: TorchCheckpoint) -> dict[str, Any]:
    """The content of a file, before torch makes tensors of its arrays."""
    table = checkpoint.train_ic
    rest = ("epoch", "loss", "info", "logs", "config", "config_summary")
    again = ("history_len", "feature_type", "dtype")
    return {
        "model_state_dict": to_state_dict(checkpoint.variables, float(checkpoint.has_dropout)),
        "optimizer_state_dict": checkpoint.optimizer,
        "extra": None if table is None else {"train_ic": np.asarray(table).tolist()},
        **{key: getattr(checkpoint, key) for key in rest + again},
    }


def from_content(content: Any) -> TorchCheckpoint:
    """The checkpoint of a file's content; a UserError if that is incomplete or contradictory."""
    if type(content) is not dict:
        raise UserError("holds no checkpoint: give the path of a model_epoch_XXXX.pt")
    if content and all(isinstance(value, np.ndarray) for value in content.values()):
        raise UserError(f"is a bare state_dict, which does not say what its inputs are: {ANEW}")
    content = unwrapped(content)
    config = _field(content, "config", dict)
    described = config | {"config_summary": ""} | content
    state_dict = _field(content, "model_state_dict", dict, other="model_state")
    loss = content.get("loss")
    loss = loss.item() if isinstance(loss, np.ndarray) and loss.ndim == 0 else loss
    if type(loss) not in (float, int, type(None)):
        raise UserError("'loss' is not a number: export the file again")
    if not all(type(key) is str for key in config):
        raise UserError("'config' has a key that is not a name: export the file again")
    checkpoint = TorchCheckpoint(
        epoch=_field(content, "epoch", int),
        variables=from_state_dict(state_dict),
        optimizer=_field(content, "optimizer_state_dict", dict, None, other="optimizer_state"),
        has_dropout=network_shape(state_dict).has_dropout,
        config=config,
        history_len=_field(described, "history_len", int),
        feature_type=_field(described, "feature_type", str),
        dtype=_field(described, "dtype", str),
        train_ic=_table(_field(content, "extra", dict, None)),
        loss=loss,
        info=_field(content, "info", dict, None),
        logs=_field(content, "logs", dict, None),
        config_summary=_field(described, "config_summary", str),
    )
    _check_consistency(checkpoint, state_dict)
    return checkpoint


def _check_consistency(checkpoint: TorchCheckpoint, state_dict: dict) -> None:
    """Refuses content of the right types that contradicts itself."""
    kind, length = checkpoint.feature_type, checkpoint.history_len
    if kind not in FEATURE_TYPES or length < 0:
        raise UserError(f"features {kind!r} with K={length} are unknown: export the file again")
    if checkpoint.epoch < 0:
        raise UserError(f"'epoch' is {checkpoint.epoch}, below 0: export the file again")
    weights = state_dict["model.0.weight"].dtype.name
    if weights != checkpoint.dtype:
        raise UserError(
            f"the weights are {weights}, but its dtype says {checkpoint.dtype!r}: export it again"
        )
    size, needed = network_shape(state_dict).input_size, FeatureSpec(kind, length).size
    if size != needed:
        raise UserError(f"the network takes {size} inputs, not {kind}'s {needed}: export it again")
    adam_from_state_dict(checkpoint.optimizer, checkpoint.variables)


def _field(content: dict, key: str, kind: type, *also: None, other: str = "") -> Any:
    """The value of a key or its other name; it must be of this type, or None if `also`."""
    value = content.get(key, content.get(other))
    if type(value) is not kind and (value is not None or not also):
        wrong = f"is a {type(value).__name__}, not a {kind.__name__}" if value else "is missing"
        raise UserError(f"{key!r} {wrong}: export the file again")
    return value


def _table(extra: dict | None) -> np.ndarray | None:
    rows = (extra or {}).get("train_ic")
    if rows is None:
        return None
    try:
        table = np.asarray(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        table = np.empty(0)
    if table.ndim not in (2, 3) or table.shape[-1] < 3 or table.shape[-1] % 2 == 0:
        raise UserError(
            "extra.train_ic is not a table [N, 1 + 2 D] or a batch of them: export the file again"
        )
    return table
