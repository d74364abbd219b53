"""Every command and program of the README runs as it stands there."""

import doctest
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e "


SLOW = "<!-- slow -->\n"


def blocks(language: str, before: str = "") -> list[str]:
    fence = rf"^{before}```{language}\n(.*?)^```$"
    return re.findall(fence, README, re.MULTILINE | re.DOTALL)


def commands(before: str = "") -> list[str]:
    return [line for block in blocks("bash", before) for line in block.splitlines()]


def run(command: str, folder: Path) -> None:
    """Runs a command with the tools of this environment in the place of those of `.venv`."""
    here = command.replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(
        ["bash", "-euc", here], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def test_the_two_commands_set_up_and_do_the_main_job() -> None:
    main_job, tests = (line for line in commands() if line.startswith(INSTALL))
    assert "scripts/train.py" in main_job
    assert tests.endswith(".venv/bin/pytest -n 2")


@pytest.mark.processes
def test_the_commands_run_one_after_the_other(clone: Path) -> None:
    for command in commands():
        if "pytest" in command or "pip install -e '" in command or command in commands(SLOW):
            continue  # the first is what runs now; the others are below
        run(command.rpartition(" && ")[2], clone)
    made = ["demo.png", "demo.mp4", "checkpoints/demo/training.png", "checkpoints/imported/4"]
    assert not [each for each in made if not (clone / each).exists()]


@pytest.mark.processes
@pytest.mark.slow
def test_the_commands_that_take_minutes_run(clone: Path) -> None:
    assert len(commands(SLOW)) >= 5
    for command in commands(SLOW):
        run(command, clone)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_the_evaluations_behind_the_tables_run(number: int, clone: Path) -> None:
    found = re.findall(r"^`(jaxstepper evaluate [^`]+)`$", README, re.MULTILINE)
    assert len(found) == 2
    run(f".venv/bin/{found[number]}", clone)
    assert (clone / "evaluation" / "work-precision.png").is_file()


@pytest.mark.processes
@pytest.mark.slow
def test_the_groups_of_the_benchmark_run(clone: Path) -> None:
    groups = re.findall(r"\| `([a-z]+)` \|$", README, re.MULTILINE)
    assert len(groups) >= 7
    for group in groups:
        run(f".venv/bin/python scripts/benchmark.py --quick --only {group}", clone)


def test_what_is_installed_is_there_to_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked_for = re.findall(r"pip install -e '\.\[([a-z,]+)\]'", README)
    assert len(asked_for) >= 4
    for extras in asked_for:
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_programs_print_what_stands_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks("python")):
        test = doctest.DocTestParser().get_doctest(
            block, names, f"program {number}", "README.md", 0
        )
        said: list[str] = []
        done = doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
        assert done.attempted > 0, block
        assert done.failed == 0, "".join(said)
        names = test.globs


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
