"""A request: the options of a command, and which of them were set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.settings.config import Config, flag_of
from jaxstepper.settings.values import refusal


@dataclass(frozen=True)
class Request:
    """A config, and which of its options were set explicitly.

    Attributes:
        config: all options, with defaults for those that were not set.
        sources: where each of the others was set, such as {"lr": "--lr"}.
    """

    config: Config
    sources: Mapping[str, str] = field(default_factory=dict)

    def sets(self, name: str) -> bool:
        """Whether this option was set explicitly."""
        return name in self.sources

    def source(self, name: str) -> str:
        """Where an option was set, for messages; its flag if it was not."""
        return self.sources.get(name, flag_of(name))

    def replace(self, **changes: Any) -> "Request":
        """The request with other values of some options."""
        return Request(replace(self.config, **changes), self.sources)

    def refusal(self, name: str, rule: str) -> UserError:
        """The error of an option whose value breaks a rule."""
        return refusal(name, self.source(name), getattr(self.config, name), rule)
