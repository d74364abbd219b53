"""The config as a checkpoint keeps it."""

from collections.abc import Mapping
from typing import Any

from jaxstepper.settings.checks import check_together
from jaxstepper.settings.config import DEFAULTS, OPTIONS, Config, read_option
from jaxstepper.settings.request import Request

CHECKPOINT = "checkpoint config"
"""The source of options that a checkpoint sets."""


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON values."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {n: list(value) if isinstance(value, tuple) else value for n, value in values.items()}


def from_dict(mapping: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The config of a checkpoint, and its unknown keys; a UserError if a value is not allowed."""
    known: dict[str, Any] = {}
    for name in (name for name in mapping if name in OPTIONS):
        value = mapping[name]
        unset = value is None and DEFAULTS[name] is None
        known[name] = None if unset else read_option(name, value, CHECKPOINT)
    unknown = {name: value for name, value in mapping.items() if name not in OPTIONS}
    stored = Request(Config(**known), dict.fromkeys(OPTIONS, CHECKPOINT))
    return check_together(stored).config, unknown


def summary(config: Config) -> str:
    """The `config_summary` line of a checkpoint."""
    c = config
    return (
        f"epochs={c.epochs} n_steps={c.n_steps} lr={c.lr} wd={c.weight_decay} "
        f"E_bounds=({c.E_lower},{c.E_upper}) L_bounds=({c.L_lower},{c.L_upper}) "
        f"history_len={c.history_len} feature_type={c.feature_type} "
        f"device={c.device} dtype={c.dtype}"
    )
