"""Many orbits at once, fresh starts, retirement, and ends that are no success."""

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import TINY, call

from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import (
    kepler_batch,
    orbital_period,
    plummer_batch,
    random_batch,
)
from jaxstepper.physics.particles import from_table
from jaxstepper.physics.tables import save_table
from jaxstepper.runs import checkpoints
from jaxstepper.runs.bodies import initial_tables, with_shape_of
from jaxstepper.runs.start import prepare
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request
from jaxstepper.training.two_phase.gate import Gate, try_step
from jaxstepper.training.two_phase.run import run_two_phase_training

SMALL = "--hidden-dims 8 8 --dropout 0 --epochs 3 --seed 1 --no-compilation-cache -s run"
# Without the cure of phase 1, whose dt would fall until the energy does not change at all.
UNREACHABLE = "--phase1 torch --energy-threshold 1e-30"
SCRIPTS = Path(__file__).parents[2] / "scripts"


def kept(name: str = "run") -> checkpoints.Checkpoint:
    return checkpoints.load(Path("checkpoints") / name)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_orbits_train_and_are_kept() -> None:
    outcome = call(f"train --multi-orbit --num-orbits 4 {SMALL}")
    assert outcome.code == 0
    assert outcome.warned == ""
    assert "traj_len=4" in outcome.out
    drawn = kepler_batch(1, 4, 0.6, 0.95, 0.8, 1.2, 1.0, 2)
    np.testing.assert_array_equal(kept().initial_conditions, drawn)
    assert kept().arrays["state"]["accepted"].tolist() == [3, 3, 3, 3]
    assert kept().metrics["total_steps"] == 4


def test_without_the_flag_one_orbit_trains_and_the_warning_says_how_to_opt_in() -> None:
    warned = call(f"{TINY} --num-orbits 4 --epochs 1 -s run").warned
    assert re.search(r"num_orbits=4\).*Using single orbit.*--multi-orbit", warned)
    assert len(kept().initial_conditions) == 1


@pytest.mark.parametrize("source", ["file", "random", "plummer", "binaries"])
def test_batches_come_from_a_file_or_from_draws(source: str) -> None:
    tables = random_batch(3, 5, 3, 2, 1.0, 0.1, 1.0)
    arguments = f"--draw {source} --num-orbits 5 --num-particles 3"
    if source == "file":
        save_table("many.npy", tables)
        arguments = "--ic-path many.npy"
    elif source == "binaries":
        arguments = "--draw plummer --num-orbits 5 --num-particles 4 --binaries 2 "
        arguments += "--a-min 0.01 --a-max 0.03 --e-min 0.1 --e-max 0.5"
        tables = plummer_batch(1, 5, 4, 2, (0.01, 0.03), (0.1, 0.5))
    elif source == "random":
        tables = random_batch(1, 5, 3, 2, 1.0, 0.1, 1.0)
    else:
        tables = plummer_batch(1, 5, 3)
    request = parse("train", f"--multi-orbit {arguments} {SMALL}".split())
    np.testing.assert_array_equal(initial_tables(request, many=True), tables)


def test_a_batch_of_a_file_trains_and_is_kept() -> None:
    tables = random_batch(3, 4, 2, 2, 1.0, 0.1, 1.0)
    save_table("many.npy", tables)
    assert call(f"train --multi-orbit --ic-path many.npy {SMALL}").code == 0
    np.testing.assert_array_equal(kept().initial_conditions, tables)


def test_a_file_of_many_systems_needs_the_flag() -> None:
    save_table("many.npy", random_batch(3, 5, 3, 2, 1.0, 0.1, 1.0))
    code, _, err = call(f"train --ic-path many.npy {SMALL}")[:3]
    assert code == 2
    assert "holds 5 systems; use --multi-orbit" in err.splitlines()[-1]


def test_orbits_retire_after_their_period_and_end_the_run_when_all_have() -> None:
    flags = "--multi-orbit --num-orbits 3 --stop-at-period --e-max 0.61 --steps-per-epoch 50"
    code, _, err = call(f"train {flags} {SMALL} --epochs 5000")[:3]
    assert code == 0
    assert "every orbit has completed its period" in err
    state = kept().arrays["state"]
    periods = [orbital_period(table) for table in kept().initial_conditions]
    times = state["systems"]["particles"]["time"]
    assert np.all(times >= periods)
    # None went on while it waited for the others: the last trial step of each crossed its period.
    assert np.all(times - 10 * state["systems"]["particles"]["dt"] < periods)


def test_fresh_starts_draw_new_systems_and_repeat_with_the_seed() -> None:
    flags = f"train --multi-orbit --num-orbits 4 --fresh-every 2 {SMALL} --epochs 5"
    assert call(flags)[0] == 0
    assert call(f"{flags} -s again")[0] == 0
    state = kept().arrays["state"]
    # Epochs 0 to 4: new draws after the second and the fourth, so one step on the newest path.
    assert state["accepted"].tolist() == [1, 1, 1, 1]
    jax.tree.map(np.testing.assert_array_equal, state, kept("again").arrays["state"])


def test_a_wasteful_step_is_trained_on_and_a_cancelled_error_is_not_waste() -> None:
    gate = Gate(two_sided=True)
    gravity = Gravity()

    def trial(table: np.ndarray, dt: float):
        state = from_table(table, gravity.acceleration, jnp.float64)
        return try_step(gate, gravity, state, jnp.asarray(dt))

    table = kepler_batch(0, 1, 0.9, 0.9, 1.0, 1.0, 1.0, 2)[0]
    short = trial(table, 1e-6)
    assert bool(short.wasteful) and bool(short.safe) and float(short.slope) < 0
    # Five steps before pericentre to five after: the error at the end cancels, that on the way not.
    state = from_table(table, gravity.acceleration, jnp.float64)
    dt = 5e-4
    back = state.replace(velocity=-state.velocity)
    for _ in range(5):
        back = try_step(replace(gate, num_steps=1), gravity, back, jnp.asarray(dt)).particles
    mirrored = np.column_stack([back.mass, back.position, -back.velocity])
    across = trial(mirrored, dt)
    assert float(across.error) < gate.waste_threshold
    assert not across.wasteful


def test_both_sides_bring_dt_into_the_band_where_one_side_leaves_it_low() -> None:
    def last_errors(band: str) -> float:
        config = Config(
            multi_orbit=True,
            num_orbits=8,
            epochs=30,
            hidden_dims=(16, 16),
            dropout=0.0,
            band=band,
            seed=0,
            lr=1e-2,
            phase1="robust",
            steps_per_epoch=2,
        )
        tables = initial_tables(Request(config), many=True)
        plan, state = prepare(with_shape_of(config, tables), tables)
        low = dict(state.variables["params"])
        last = f"Dense_{len(low) - 1}"
        low[last] = {**low[last], "bias": low[last]["bias"] - 3.0}
        state = state.replace(variables={**state.variables, "params": low})
        return run_two_phase_training(plan, state, config.epochs).metrics["mean_energy_error"]

    assert last_errors("upper") < 1e-7
    assert 5e-7 < last_errors("both") < 2e-4


def test_a_run_that_is_stuck_saves_says_where_and_exits_with_1() -> None:
    code, _, err = call(
        f"train --num-orbits 1 --num-particles 3 {UNREACHABLE} --max-retrain-steps 5 {SMALL}"
    )[:3]
    assert code == 1
    line = err.splitlines()[-1]
    assert "stuck at epoch 0, step 0, system 0" in line
    assert "saved in checkpoints/run" in line and "Try " in line
    assert kept().arrays["state"]["progress"]["failures"].tolist() == [6]


@pytest.mark.processes
def test_ctrl_c_ends_an_endless_step_with_everything_saved(folder: Path) -> None:
    arguments = f"--num-orbits 1 --num-particles 3 {UNREACHABLE} --max-retrain-steps 0 {SMALL}"
    arguments = arguments.replace("--no-compilation-cache", "")
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "train.py", *arguments.split()],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ},
    )
    guard = threading.Timer(120, process.kill)
    guard.start()
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "retrain iterations" in line:
            break
    process.send_signal(signal.SIGINT)
    said += process.stderr
    process.stderr.close()
    guard.cancel()
    assert process.wait() == 0
    assert any("RuntimeWarning" in line and "retrain iterations" in line for line in said)
    assert "interrupted in epoch 0, step 0; saved in checkpoints/run/0.1" in said[-1]
    assert kept().arrays["state"]["progress"]["failures"][0] > 1000
