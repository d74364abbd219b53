"""Checkpoints of the torch simulator: read without running code from them, and written.

In memory everything is numpy; torch is imported only where a file is opened or written.
"""

import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.typing import DTypeLike

from jaxstepper.errors import UserError
from jaxstepper.features import FeatureSpec
from jaxstepper.networks import OUTPUTS, Variables

FREQUENCIES = "embedding.B"
DTYPES = ("float64", "float32")
FEATURE_TYPES = ("delta_mag", "basic", "rich")
# The class whose objects the torch system leaves in its `logs`.
FOREIGN_CLASS = "src.particle.ParticleTorch"

_PLAIN = (str, int, float, bool, type(None))
_MOMENTS = ("exp_avg", "exp_avg_sq")


class NetworkShape(NamedTuple):
    """What the names and shapes of a state dict say of the network."""

    input_size: int
    hidden_dims: tuple[int, ...]
    has_dropout: bool
    fourier_dim: int | None


def to_state_dict(variables: Variables, dropout: float) -> dict[str, np.ndarray]:
    """Weights `[out, in]` and biases `[out]` under torch's names, in torch's order.

    Args:
        variables: of a `StepNetwork`.
        dropout: if > 0, the stack has dropout layers, which count in the names.
    """
    constants, layers = variables.get("constants", {}), variables["params"]
    state_dict = {FREQUENCIES: _array(constants["B"])} if "B" in constants else {}
    for layer in range(len(layers)):
        index, dense = layer * _stride(dropout > 0), layers[f"Dense_{layer}"]
        state_dict[f"model.{index}.weight"] = _array(np.asarray(dense["kernel"]).T)
        state_dict[f"model.{index}.bias"] = _array(dense["bias"])
    return state_dict


def from_state_dict(state_dict: Mapping[Any, Any]) -> Variables:
    """The variables of a `StepNetwork`; the inverse of `to_state_dict`.

    Raises:
        UserError: names, shapes or dtypes are not those of such a network.
    """
    indices = _layer_indices(state_dict)
    constants = {"B": _array(state_dict[FREQUENCIES])} if FREQUENCIES in state_dict else {}
    params = {
        f"Dense_{layer}": {
            "kernel": _array(state_dict[f"model.{index}.weight"].T),
            "bias": _array(state_dict[f"model.{index}.bias"]),
        }
        for layer, index in enumerate(indices)
    }
    return {"params": params, "constants": constants}


def network_shape(state_dict: Mapping[Any, Any]) -> NetworkShape:
    """Reads the architecture off a state dict.

    Raises:
        UserError: names, shapes or dtypes are not those of a `StepNetwork`.
    """
    indices = _layer_indices(state_dict)
    widths = [state_dict[f"model.{i}.bias"].shape[0] for i in indices]
    first = state_dict.get(FREQUENCIES, state_dict["model.0.weight"])
    return NetworkShape(
        input_size=first.shape[1],
        hidden_dims=tuple(widths[:-1]),
        has_dropout=len(indices) > 1 and indices[1] == _stride(True),
        fourier_dim=2 * first.shape[0] if FREQUENCIES in state_dict else None,
    )


def _layer_indices(state_dict: Mapping[Any, Any]) -> list[int]:
    """Places of the Linear layers in the stack, after a check of names, shapes and dtypes."""
    found = (re.fullmatch(r"model\.([0-9]{1,6})\.weight", str(key)) for key in state_dict)
    numbers = sorted(int(match[1]) for match in found if match)
    stride = numbers[1] if len(numbers) > 1 else _stride(False)
    indices = [layer * stride for layer in range(len(numbers))]
    parts = {f"model.{i}.{part}" for i in indices for part in ("weight", "bias")}
    regular = stride in (_stride(False), _stride(True)) and len(numbers) > 0
    if not regular or set(state_dict) - {FREQUENCIES} != parts:
        raise UserError(
            "its names are not the step network's (model.0.weight, ...): export it again"
        )
    dtype = getattr(state_dict["model.0.weight"], "dtype", None)
    for name, value in state_dict.items():
        dimensions = 1 if name.endswith("bias") else 2
        if not isinstance(value, np.ndarray) or value.ndim != dimensions or value.size == 0:
            raise UserError(f"{name} is not an array of {dimensions} dimension(s): export it again")
        if value.dtype != dtype or value.dtype.name not in DTYPES:
            raise UserError(f"{name} is {value.dtype}: one dtype, float64 or float32, is expected")
    width = state_dict["model.0.weight"].shape[1]
    if FREQUENCIES in state_dict:
        width = 2 * state_dict[FREQUENCIES].shape[0]
    for i in indices:
        weight, bias = state_dict[f"model.{i}.weight"], state_dict[f"model.{i}.bias"]
        if weight.shape != (bias.shape[0], width):
            raise UserError(
                f"model.{i}.weight {weight.shape} does not fit its neighbours: export it again"
            )
        width = bias.shape[0]
    if width != OUTPUTS:
        raise UserError(f"the network has {width} outputs, not {OUTPUTS}: export it again")
    return indices


def _stride(dropout: bool) -> int:
    """Linear, activation and perhaps dropout count in the names of the layers."""
    return 3 if dropout else 2


def _array(value: Any) -> np.ndarray:
    """An own copy, contiguous, as torch needs it."""
    return np.array(value, order="C")


def adam_state_dict(
    adam: optax.ScaleByAdamState,
    variables: Variables,
    *,
    lr: float,
    weight_decay: float,
    decoupled: bool,
    dtype: DTypeLike,
) -> dict[str, Any]:
    """The state_dict of a torch Adam that goes on where ours is.

    Args:
        adam: its moments are shaped like `variables["params"]`.
        variables: of the network.
        lr: learning rate.
        weight_decay: coefficient of the weight decay.
        decoupled: decay as in AdamW instead of an L2 term in the gradient.
        dtype: of the step count, which torch keeps as a float.
    """
    constants = variables.get("constants", {})
    moments = [
        to_state_dict({"params": m, "constants": constants}, 0.0) for m in (adam.mu, adam.nu)
    ]
    steps = int(adam.count)
    # Before the first step torch has no state; the frequencies are listed but never stepped.
    state = {
        p: {"step": np.asarray(steps, dtype)}
        | {key: moment[name] for key, moment in zip(_MOMENTS, moments, strict=True)}
        for p, name in enumerate(moments[0])
        if steps > 0 and name != FREQUENCIES
    }
    group: dict[str, Any] = {"lr": float(lr), "betas": (0.9, 0.999), "eps": 1e-8}
    group |= {"weight_decay": float(weight_decay), "decoupled_weight_decay": bool(decoupled)}
    group |= dict.fromkeys(("amsgrad", "maximize", "capturable", "differentiable"), False)
    group |= dict.fromkeys(("foreach", "fused"), None)
    group["params"] = list(range(len(moments[0])))
    return {"state": state, "param_groups": [group]}


def adam_from_state_dict(
    state_dict: Mapping[Any, Any] | None, variables: Variables
) -> optax.ScaleByAdamState | None:
    """Our state of Adam; None if there is none, or another optimiser's.

    Raises:
        UserError: the state does not fit the network.
    """
    if state_dict is None:
        return None
    groups: Any = state_dict.get("param_groups")
    state: Any = state_dict.get("state")
    one_group = type(groups) is list and len(groups) == 1 and type(groups[0]) is dict
    if not one_group or type(state) is not dict:
        raise UserError("the optimizer state is no state_dict of torch: export the file again")
    # `amsgrad` is a setting of Adam and AdamW alone; switched on it needs a third moment.
    if groups[0].get("amsgrad") is not False:
        return None
    weights = to_state_dict(variables, 0.0)
    # The frequencies have no moments; their own values only keep the names complete.
    first: dict[str, Any] = dict(weights)
    second: dict[str, Any] = dict(weights)
    steps = set()
    for p, (name, weight) in enumerate(weights.items()):
        if name == FREQUENCIES:
            continue
        fresh = {"step": 0, "exp_avg": np.zeros_like(weight), "exp_avg_sq": np.zeros_like(weight)}
        entry: Any = state.get(p) if state else fresh
        if type(entry) is not dict or not all(_alike(entry.get(k), weight) for k in _MOMENTS):
            raise UserError(f"the optimizer state of {name} does not fit: export the file again")
        first[name], second[name] = entry["exp_avg"], entry["exp_avg_sq"]
        steps.add(_step_count(entry.get("step")))
    if len(steps) != 1:
        raise UserError("the optimizer's step counts differ: export the file again")
    mu, nu = (from_state_dict(moment)["params"] for moment in (first, second))
    return optax.ScaleByAdamState(count=np.asarray(steps.pop(), np.int32), mu=mu, nu=nu)


def _step_count(value: Any) -> int:
    """Steps taken, which torch keeps as a float."""
    steps = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if type(steps) not in (int, float) or not 0 <= steps < 2**31 or steps != int(steps):
        raise UserError("the optimizer's step is no count: export the file again")
    return int(steps)


def _alike(value: Any, weight: np.ndarray) -> bool:
    same = isinstance(value, np.ndarray) and value.shape == weight.shape
    return same and value.dtype == weight.dtype


@dataclass(frozen=True)
class TorchCheckpoint:
    """What a checkpoint file holds; arrays are numpy's, everything else is plain values.

    Attributes:
        epoch: counted from zero.
        variables: of the network.
        optimizer: torch's state_dict of an optimiser (see `adam_state_dict`), or None.
        has_dropout: whether the stack has dropout layers, which count in the names of the layers.
        config: the flat config; keys that we do not know are kept.
        history_len: K, number of past states in the features.
        feature_type: one of `FEATURE_TYPES`.
        dtype: one of `DTYPES`.
        train_ic: table of bodies `[N, 1 + 2 D]` at the start of the training, or None.
        loss: of the epoch, or None.
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
        """Our state of Adam, or None if the checkpoint has none."""
        return adam_from_state_dict(self.optimizer, self.variables)


def file_name(epoch: int) -> str:
    """Name of the checkpoint after `epoch` (counted from zero)."""
    return f"model_epoch_{epoch:04d}.pt"


def write(path: str | os.PathLike[str], checkpoint: TorchCheckpoint) -> None:
    """Writes a file that the torch simulator loads and that opens with `weights_only=True`.

    The file appears complete or not at all.

    Raises:
        UserError: torch is missing, or the file cannot be written.
        TypeError: a value of the checkpoint is neither plain nor an array.
    """
    torch = _import_torch()

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray | jax.Array):
            return torch.from_numpy(_array(value))
        value = value.item() if isinstance(value, np.generic) else value
        if type(value) not in _PLAIN:
            raise TypeError(f"a checkpoint holds plain values and arrays, not {type(value)}")
        return value

    def plain(value: Any) -> Any:
        return _map_leaves(value, leaf, count())

    table = checkpoint.train_ic
    model = plain(to_state_dict(checkpoint.variables, float(checkpoint.has_dropout)))
    optimizer = plain(checkpoint.optimizer)
    rest = ("epoch", "loss", "info", "logs", "config", "config_summary")
    again = ("history_len", "feature_type", "dtype")
    content = {
        "model_state_dict": model,
        "model_state": model,
        "optimizer_state_dict": optimizer,
        "optimizer_state": optimizer,
        "extra": None if table is None else {"train_ic": np.asarray(table).tolist()},
        **{key: plain(getattr(checkpoint, key)) for key in rest + again},
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "torch failed to write; is the disk full?"
        raise UserError(f"{path}: cannot be written ({reason}): choose another place") from None


def read(path: str | os.PathLike[str]) -> TorchCheckpoint:
    """Reads a checkpoint, ours or the torch system's own, without running code from it.

    Raises:
        UserError: torch is missing; the file is missing, damaged, not such a checkpoint, or names
            code to be run.
    """
    torch = _import_torch()
    path = Path(path)
    try:
        return _checkpoint(_load(torch, path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a checkpoint; not opened") from None


class _Foreign:
    """Stands in for an object of the torch system: holds its attributes and does nothing."""

    __slots__ = ("attributes",)

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


def _load(torch: Any, path: Path) -> Any:
    """The content of a file as plain values and arrays; a foreign object becomes a dict."""
    try:
        if not path.is_file():
            raise UserError("is no file: give the path of a model_epoch_XXXX.pt")
        # Torch stores without compression; more content than file is made to exhaust memory.
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > size:
                    raise UserError("a compressed archive is no torch checkpoint; not opened")
        known = torch.serialization.safe_globals([(_Foreign, FOREIGN_CLASS)])
        with path.open("rb") as file, warnings.catch_warnings(), known:
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError:
        raise UserError("may not be read: check its permissions") from None
    except Exception as error:  # a damaged or hostile pickle fails in any way it likes
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"names {named[1]}, which could run code, and was not opened: "
                "only plain values and tensors are read"
            ) from None
        raise UserError("damaged, or no torch checkpoint: copy or export it again") from None

    # Every value takes a byte at least; more of them are references that fan out without end.
    budget = iter(range(size))

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _to_numpy(torch, value)
        if type(value) is _Foreign:
            return _map_leaves(getattr(value, "attributes", {}), leaf, budget)
        return value if type(value) in _PLAIN else f"<{type(value).__name__}>"

    return _map_leaves(content, leaf, budget)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            "a checkpoint of the torch simulator needs torch: pip install 'jaxstepper[torch]'"
        ) from None
    return torch


def _to_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """The numbers of a tensor, sharing its memory."""
    try:
        # Called on the class: a tensor from a file may carry attributes of these names.
        tensor = torch.Tensor.detach(tensor)
        size = tensor.numel() * tensor.element_size()
        # Strides of 0 would let a few bytes stand for more than the memory.
        if tensor.device.type == "cpu" and size <= tensor.untyped_storage().nbytes():
            return tensor.numpy(force=True)
    except (TypeError, RuntimeError, NotImplementedError):
        pass  # sparse, quantised, or of a type that numpy lacks
    raise UserError("holds a tensor that is no ordinary array: export it again")


def _map_leaves(value: Any, leaf: Callable[[Any], Any], budget: Iterator[int]) -> Any:
    """Rebuilds dicts, lists and tuples with `leaf` applied to what is in them."""
    if next(budget, None) is None:
        raise UserError("refers to more values than it can hold; not opened")
    if isinstance(value, dict):
        keys = (key if type(key) in _PLAIN else f"<{type(key).__name__}>" for key in value)
        # Not value.items(): an object's own attribute of that name would be called.
        values = (_map_leaves(item, leaf, budget) for item in dict.values(value))
        return dict(zip(keys, values, strict=True))
    if isinstance(value, list | tuple):
        items = [_map_leaves(item, leaf, budget) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return leaf(value)


def _checkpoint(content: Any) -> TorchCheckpoint:
    if type(content) is not dict:
        raise UserError("holds no checkpoint: give the path of a model_epoch_XXXX.pt")
    config = _field(content, "config", dict)
    described = config | {"config_summary": ""} | content
    state_dict = _field(content, "model_state_dict", dict, other="model_state")
    loss = content.get("loss")
    loss = loss.item() if isinstance(loss, np.ndarray) and loss.ndim == 0 else loss
    if type(loss) not in (float, int, type(None)):
        raise UserError("'loss' is no number: export the file again")
    if not all(type(key) is str for key in config):
        raise UserError("'config' has a key that is no name: export the file again")
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
    """Refuses what has the right types and yet contradicts itself."""
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
    """The value of a key (or of its other name), which must have this type or be None if `also`."""
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
    if table.ndim != 2 or table.shape[1] < 3 or table.shape[1] % 2 == 0:
        raise UserError("extra.train_ic is no table [N, 1 + 2 D]: export the file again")
    return table
