"""Every command and program of the README runs as it stands there."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


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


def test_the_commands_run_one_after_the_other(clone: Path) -> None:
    for command in commands():
        if "pytest" in command or "kepler" in command:
            continue  # the first is what runs now; the second is the slow test below
        run(command.rpartition(" && ")[2], clone)
    assert (clone / "demo.png").is_file()
    assert (clone / "checkpoints" / "imported" / "4").is_dir()


@pytest.mark.slow
def test_the_stepper_of_the_picture_trains_and_simulates(clone: Path) -> None:
    for command in commands():
        if "kepler" in command:
            run(command, clone)
    assert (clone / "kepler.npz").is_file()


def test_the_programs_print_what_stands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
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
