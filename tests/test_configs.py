"""Every configuration of `scripts/configs` says what it is for, and starts."""

import re
import tomllib
from pathlib import Path

import pytest
from commandline import call

from jaxstepper.commands.simulate import check_mode
from jaxstepper.runs.bodies import initial_tables
from jaxstepper.runs.models import load_model
from jaxstepper.runs.plans import adopt
from jaxstepper.settings.command_line import parse

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "scripts" / "configs").glob("*.toml"))
# One of each kind of bodies and inputs; the others are for the slow tests.
QUICK = ("fourier", "quick_start", "three_bodies_history", "tidal_field")
STARTED = [
    pytest.param(path, id=path.stem, marks=[] if path.stem in QUICK else [pytest.mark.slow])
    for path in CONFIGS
]
SMALL = (
    "--epochs 1 --n-steps 1 --hidden-dims 4 --num-orbits 2 --steps-per-epoch 2 "
    "--replay-steps 1 --window-steps 16 --window-batch 2 --window-iterations 1 --fourier-dim 4 "
    "--population 2 --rollouts 1 --rollout-time 0.1 "
    "--save-name run --quiet --no-compilation-cache"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_says_how_to_run_it_and_what_comes_of_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head = re.match(r"(#.*\n)+", text)
    assert head
    for what in ("Command", "Hardware", "Duration", "Result"):
        assert re.search(rf"^# {what}: +\S", head[0], re.MULTILINE), what
    file = tomllib.loads(text)
    script = "sweep" if "sweep" in file else "train"
    assert f"python scripts/{script}.py --config scripts/configs/{path.name}" in head[0]
    assert file["save_name"] == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_options_are_there_and_its_bodies_are_drawn(path: Path) -> None:
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    request = parse("train", ["--config", str(path)])
    assert file.keys() - request.sources.keys() <= {"train", "simulate", "sweep"}
    many = request.config.multi_orbit
    assert initial_tables(request, many).ndim == 3
    if "simulate" in file:
        parse("simulate", ["--config", str(path)])


@pytest.mark.parametrize("path", STARTED)
def test_a_configuration_trains_what_it_simulates(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    fewer = "--num-particles 3" if "num_particles" in file else ""
    trained = call("train --config", path, SMALL, fewer)
    assert (trained.code, trained.warned) == (0, ""), trained.err
    if "simulate" in file:
        request = parse("simulate", ["--config", str(path)])
        assert request.config.model_path == path.stem
        model = load_model("run", "checkpoints")
        check_mode(adopt(request, model.config, model.name).config, model.name)
