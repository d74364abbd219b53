"""What a command was asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxstepper.settings.config import Config, flag_of


@dataclass(frozen=True)
class Request:
    """A config, and what of it was asked for.

    Attributes:
        config: all options; those that nobody set have their defaults.
        sources: where each option that was set was set: {"lr": "--lr"}.
    """

    config: Config
    sources: Mapping[str, str]

    def sets(self, name: str) -> bool:
        """Whether this option was set explicitly."""
        return name in self.sources

    def source(self, name: str) -> str:
        """Where an option was set, for messages; its flag if it was not."""
        return self.sources.get(name, flag_of(name))

    def replace(self, **changes: Any) -> "Request":
        """The same request with other values of some options."""
        return Request(replace(self.config, **changes), self.sources)
