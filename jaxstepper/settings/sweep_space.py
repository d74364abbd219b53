"""The table [sweep] of a TOML file: what a trial may choose for each key (standard library)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxstepper.settings.config import OPTIONS, read_option
from jaxstepper.settings.values import nearest, refusal

GROUPS = (
    "optimisation",
    "two-phase training",
    "network (simulate takes it from the checkpoint)",
    "features and history",
)
ALSO = ("normalize_inputs", "softening", "num_orbits", "retrain_batch", "fresh_every")
# They decide how trials are measured and how long they take, so all trials must share them.
SAME_FOR_ALL = ("objective", "epochs", "n_steps", "energy_threshold")
RANGE = "{low = .., high = ..}, with log = true or (integers) step = .. if wanted"


@dataclass(frozen=True)
class Listed:
    """A choice from a list.

    Attributes:
        name: the key.
        values: the checked values, by the labels that a trial has for them.
        source: where the list was set.
    """

    name: str
    values: Mapping[str | int | float | bool, Any]
    source: str

    def suggest(self, trial: Any) -> Any:
        """The value that Optuna's trial draws."""
        return self.of_label(trial.suggest_categorical(self.name, tuple(self.values)))

    def of_label(self, label: Any) -> Any:
        """The value with this label."""
        return self.values[label]

    @property
    def ends(self) -> list[Any]:
        """The values that are tried when a sweep is checked."""
        return list(self.values.values())

    def describe(self) -> Any:
        """The choice as a JSON value."""
        return list(self.values)


@dataclass(frozen=True)
class Ranged:
    """A choice from a range of numbers, ends included.

    Attributes:
        name: the key.
        low: the smallest value.
        high: the largest value.
        log: whether its logarithm is drawn uniformly.
        step: the spacing of integers; None for real numbers.
        source: where the range was set.
    """

    name: str
    low: Any
    high: Any
    log: bool
    step: int | None
    source: str

    def suggest(self, trial: Any) -> Any:
        """The value that Optuna's trial draws."""
        if self.step is None:
            return trial.suggest_float(self.name, self.low, self.high, log=self.log)
        return trial.suggest_int(self.name, self.low, self.high, step=self.step, log=self.log)

    def of_label(self, label: Any) -> Any:
        """The value with this label: a number is its own label."""
        return label

    @property
    def ends(self) -> list[Any]:
        """The values that are tried when a sweep is checked."""
        return [self.low, self.high]

    def describe(self) -> Any:
        """The choice as a JSON value."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


Choice = Listed | Ranged


def read_choices(table: Any, path: str) -> list[Choice]:
    """The choices of a table [sweep].

    Raises:
        UserError: a key cannot be swept, or a value is not allowed.
    """
    if not isinstance(table, dict):
        raise refusal("sweep", path, table, "must be a table, [sweep]")
    return [_read_choice(name, raw, f"{path} [sweep]") for name, raw in table.items()]


def can_be_swept(name: str) -> bool:
    """Whether a sweep may choose this key."""
    option = OPTIONS[name]
    in_groups = option.group in GROUPS or option.objective
    return bool(in_groups and name not in SAME_FOR_ALL) or name in ALSO


def _read_choice(name: str, raw: Any, source: str) -> Choice:
    sweepable = [each for each in OPTIONS if can_be_swept(each)]
    if name not in OPTIONS:
        hint = nearest(name, sweepable, "allowed are keys of training, network and features")
        raise refusal(name, source, raw, f"unknown key; {hint}")
    if name in SAME_FOR_ALL:
        rule = "cannot be swept: trials of another length or measure cannot be compared"
        raise refusal(name, source, raw, rule)
    if name not in sweepable:
        rule = "cannot be swept; allowed are keys of training, network and features"
        raise refusal(name, source, raw, rule)
    if isinstance(raw, dict):
        return _read_range(name, raw, source)
    if not isinstance(raw, list) or not raw:
        raise refusal(name, source, raw, f"must be a list of values, or {RANGE}")
    values: dict[str | int | float | bool, Any] = {}
    for each in raw:
        value = read_option(name, each, source)
        label = json.dumps(list(value)) if isinstance(value, tuple) else value
        if label in values:
            raise refusal(name, source, raw, f"holds {label} twice")
        values[label] = value
    return Listed(name, values, source)


def _read_range(name: str, raw: dict[str, Any], source: str) -> Ranged:
    allowed = OPTIONS[name].allowed
    if allowed.kind not in (int, float) or allowed.many:
        raise refusal(name, source, raw, "is not a number, so it needs a list of values")
    if not {"low", "high"} <= raw.keys() <= {"low", "high", "log", "step"}:
        raise refusal(name, source, raw, f"must be {RANGE}")
    low, high = (read_option(name, raw[end], source) for end in ("low", "high"))
    log, step = raw.get("log", False), raw.get("step")
    if not low < high:
        raise refusal(name, source, raw, "low must be below high")
    if type(log) is not bool:
        raise refusal(name, source, raw, "log must be true or false")
    if log and low <= 0:
        raise refusal(name, source, raw, "low must be > 0 with log = true")
    if step is not None and (allowed.kind is float or type(step) is not int or step < 1 or log):
        raise refusal(name, source, raw, "step is an integer >= 1, for integers without log = true")
    if allowed.kind is int:
        step = step or 1
        read_option(name, min(low + step, high), source)
        high -= (high - low) % step
    return Ranged(name, low, high, log, step, source)
