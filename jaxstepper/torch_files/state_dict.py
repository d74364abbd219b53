"""Translates a network and its Adam to and from torch's names, in numpy and without torch."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
from jax.typing import DTypeLike

from jaxstepper.errors import UserError
from jaxstepper.network.step_network import OUTPUTS, Variables

FREQUENCIES = "embedding.B"
DTYPES = ("float64", "float32")

_MOMENTS = ("exp_avg", "exp_avg_sq")


class NetworkShape(NamedTuple):
    """The architecture that the names and shapes of a state dict imply."""

    input_size: int
    hidden_dims: tuple[int, ...]
    has_dropout: bool
    fourier_dim: int | None


def to_state_dict(variables: Variables, dropout: float) -> dict[str, np.ndarray]:
    """Weights `[out, in]` and biases `[out]` under torch's names, in torch's order.

    Args:
        variables: those of a `StepNetwork`.
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
    """The inverse of `to_state_dict`; raises as `network_shape`."""
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
    """Checks names, shapes and dtypes; returns the places of the Linear layers in the stack."""
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
    """The distance of Linear layers in the stack, with activation and perhaps dropout between."""
    return 3 if dropout else 2


def _array(value: Any) -> np.ndarray:
    """A contiguous copy, as torch needs it."""
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
    """The state_dict of a torch Adam that continues from ours.

    Args:
        adam: our state; its moments have the shapes of `variables["params"]`.
        variables: the network's weights and constants.
        lr: the learning rate.
        weight_decay: its coefficient.
        decoupled: whether weights decay as in AdamW, instead of by an L2 term in the gradient.
        dtype: that of the step count, which is a float in torch.
    """
    constants = variables.get("constants", {})
    moments = [
        to_state_dict({"params": m, "constants": constants}, 0.0) for m in (adam.mu, adam.nu)
    ]
    steps = int(adam.count)
    # Torch has no state before the first step, and never steps the frequencies it lists.
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
    """The state of our Adam, or None; a UserError if it does not fit the network."""
    if state_dict is None:
        return None
    groups: Any = state_dict.get("param_groups")
    state: Any = state_dict.get("state")
    one_group = type(groups) is list and len(groups) == 1 and type(groups[0]) is dict
    if not one_group or type(state) is not dict:
        raise UserError("the optimizer state is not a state_dict of torch: export the file again")
    # Only Adam and AdamW have `amsgrad`; switched on, it needs a third moment.
    if groups[0].get("amsgrad") is not False:
        return None
    weights = to_state_dict(variables, 0.0)
    # The frequencies have no moments; their values stand in, to keep the names complete.
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
    """The number of steps, which torch keeps as a float."""
    steps = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if type(steps) not in (int, float) or not 0 <= steps < 2**31 or steps != int(steps):
        raise UserError("the optimizer's step is not a count: export the file again")
    return int(steps)


def _alike(value: Any, weight: np.ndarray) -> bool:
    same = isinstance(value, np.ndarray) and value.shape == weight.shape
    return same and value.dtype == weight.dtype
