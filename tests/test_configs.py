"""Every configuration of `scripts/configs` says what it is for, and starts."""

import re
import tomllib
from pathlib import Path

import pytest
from commandline import call

from jaxstepper.commands.simulate import check_mode
from jaxstepper.runs.models import load_model
from jaxstepper.runs.plans import adopt
from jaxstepper.settings.command_line import parse

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "scripts" / "configs").glob("*.toml"))
# The longer ones, which simulate nothing of their own, are for the slow tests.
STARTED = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if "[simulate]" not in text else [])
    for path in CONFIGS
    for text in [path.read_text(encoding="utf-8")]
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
