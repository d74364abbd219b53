"""What a command was asked to do."""

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
        config: all options; those that nobody set have their defaults.
        sources: where each option that was set was set, such as {"lr": "--lr"}.
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
        """The same request with other values of some options."""
        return Request(replace(self.config, **changes), self.sources)

    def refusal(self, name: str, rule: str) -> UserError:
        """The error that the value of an option breaks a rule."""
        return refusal(name, self.source(name), getattr(self.config, name), rule)
