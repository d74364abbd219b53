"""Every command and program of the README and of the pages of docs runs as it stands there."""

import doctest
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path
from textwrap import dedent

import pytest
from commandline import call

import jaxstepper

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BIN = Path(sys.executable).parent
COMMAND = ".venv/bin/jaxstepper "
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e "
SLOW = "<!-- slow -->\n"
# The training of the README, and one that is as good for the commands after it.
TRAINING, SHORT = "train.py --config quick_start", "train.py --config quick_start --epochs 2"


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str, before: str = "") -> list[str]:
    """The blocks of a language, also in lists, that stand behind a line of `before`."""
    mark = rf"^ *{before}" if before else ""
    fence = rf"{mark}^( *)```{language}\n(.*?)^\1```$"
    return [dedent(found[1]) for found in re.findall(fence, text(page), re.MULTILINE | re.DOTALL)]


def scripts(page: Path, before: str = "") -> list[str]:
    """What its blocks of commands run: not what is installed already, nor the tests themselves."""
    found = [
        "\n".join(
            line.rpartition(" && ")[2] if line.startswith(INSTALL) else line
            for line in block.splitlines()
            if not line.startswith(".venv/bin/pip") and "pytest" not in line
        )
        for block in blocks(page, "bash", before)
    ]
    return [script for script in found if script]


def with_blocks(language: str, before: str = "") -> list:
    """The pages that have such blocks, as cases of a test."""
    pages = [page for page in PAGES if blocks(page, language, before)]
    return [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages]


def run(command: str, folder: Path) -> None:
    """Runs commands with the tools of this environment in the place of those of `.venv`."""
    here = command.replace(".venv/bin/", f"{BIN}/")
    environment = dict(os.environ)
    if "train" in command and SHORT not in command:
        # It takes longer to run than to compile, so it is worth compiling well.
        environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    done = subprocess.run(
        ["bash", "-euc", here],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def test_the_two_commands_set_up_and_do_the_main_job() -> None:
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    main_job, tests = (line for line in lines if line.startswith(INSTALL))
    assert "scripts/train.py" in main_job
    assert tests.endswith(".venv/bin/pytest -n 2")


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) <= 8000


def run_here(script: str, folder: Path) -> None:
    """Runs what needs no shell in this process, where starting costs nothing, and the rest in one.

    The working directory is the folder.
    """
    for ours, lines in groupby(script.splitlines(), lambda line: line.startswith(COMMAND)):
        if not ours:
            run("\n".join(lines), folder)
            continue
        for line in lines:
            outcome = call(line.removeprefix(COMMAND))
            assert outcome.code == 0, f"{line}\n{outcome.err}"


@pytest.mark.processes
@pytest.mark.parametrize("page", with_blocks("bash"))
def test_the_commands_run_one_after_the_other(
    page: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    for script in scripts(page):
        if script not in scripts(page, SLOW):
            run_here(script.replace(TRAINING, SHORT), clone)
    if page == README:
        made = ["orbit.png", "checkpoints/quick_start/training.png", "kepler.npz"]
        assert not [each for each in made if not (clone / each).exists()]


@pytest.mark.processes
@pytest.mark.slow
def test_the_training_of_the_readme_runs_to_its_end(clone: Path) -> None:
    (training,) = (script for script in scripts(README) if TRAINING in script)
    run(training, clone)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks("bash", SLOW))
def test_the_commands_that_take_minutes_run(page: Path, clone: Path) -> None:
    for script in scripts(page):  # they may need what the others make
        run(script, clone)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_the_evaluations_behind_the_tables_run(number: int, clone: Path) -> None:
    results = text(ROOT / "docs" / "results.md")
    found = re.findall(r"^`(jaxstepper evaluate [^`]+)`$", results, re.MULTILINE)
    assert len(found) >= 2
    run(f".venv/bin/{found[number]}", clone)
    assert (clone / "evaluation" / "work-precision.png").is_file()


@pytest.mark.processes
@pytest.mark.slow
def test_the_groups_of_the_benchmark_run(clone: Path) -> None:
    results = text(ROOT / "docs" / "results.md")
    groups = re.findall(r"\| `([a-z]+)` \|$", results, re.MULTILINE)
    assert len(groups) >= 7
    for group in groups:
        run(f".venv/bin/python scripts/benchmark.py --quick --only {group}", clone)


def test_what_is_installed_is_there_to_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked_for = [
        extras
        for page in PAGES
        for extras in re.findall(r"pip install -e '\.\[([a-z0-9,]+)\]'", text(page))
    ]
    assert len(asked_for) >= 6
    for extras in asked_for:
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_programs_print_what_stands_there(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python")):
        test = doctest.DocTestParser().get_doctest(block, names, f"program {number}", page.name, 0)
        said: list[str] = []
        done = doctest.DocTestRunner().run(test, out=said.append, clear_globs=False)
        assert done.attempted > 0, block
        assert done.failed == 0, "".join(said)
        names = test.globs


def test_the_links_lead_somewhere() -> None:
    missing = []
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text(page))
        assert links or page != README
        missing += [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    docs = ROOT / "docs"
    pages = [p for kind in ("*.md", "*.ipynb") for p in docs.rglob(kind)]
    there = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [p for p in pages if f" {p.relative_to(docs).as_posix()}\n" not in there]


def test_the_reference_has_every_public_name() -> None:
    page = text(ROOT / "docs" / "reference" / "library.md")
    names = re.findall(r"^::: [\w.]+\.(\w+)$", page, re.MULTILINE) + re.findall(r"`(\w+)`", page)
    assert not set(jaxstepper.__all__) - set(names)
