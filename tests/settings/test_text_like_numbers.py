"""Text that looks like a negative number reaches its option as it was typed."""

import pytest

from jaxstepper.settings.command_line import parse


@pytest.mark.parametrize("name", ["-1", "-1 ", "-0  ", "-1e-3", "x-1"])
def test_a_name_keeps_its_blanks(name: str) -> None:
    assert parse("simulate", ["--wandb-name", name]).config.wandb_name == name
    assert parse("simulate", [f"--wandb-name={name}"]).config.wandb_name == name
