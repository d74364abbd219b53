"""Runs on several devices, and of several processes, come to what runs on one device come to."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commandline import call

from jaxstepper.machine import devices, processes
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.start import prepare
from jaxstepper.settings.stored import from_dict
from jaxstepper.training.two_phase.run import run_two_phase_training

HERE = Path(__file__).parent
pytestmark = pytest.mark.processes
# Epochs of two phases each, in which some steps fail and train; a batch of phase 1 takes 2 of the
# systems, one of phase 2 some of the samples; there are fresh starts; then rollouts of some steps.
EPOCHS = 4
TRAINING = (
    "--multi-orbit --num-orbits 8 --hidden-dims 8 --seed 1 --steps-per-epoch 2 -s run "
    "--retrain-batch 2 --replay-batch-size 6 --replay-steps 5"
)
TRAINED = f"{TRAINING} --epochs {EPOCHS} --fresh-every 3 --checkpoint-interval 1"
RUN = f"both {TRAINED} --multi-orbit-sim --Nperiod 0 --steps 20"
COMMAND = """
from jaxstepper.cli import console
try:
    console()
finally:
    {then}
"""
PATIENCE = 300.0


class Started:
    """A process that is killed when it takes too long."""

    def __init__(
        self, folder: Path, arguments: str, then: str = "", **environment: str | int
    ) -> None:
        settings = {
            "JAX_NUM_CPU_DEVICES": 1,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), *sys.path]),
            **environment,
        }
        code = COMMAND.format(then=then or "pass")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments.split()],
            cwd=folder,
            env={**os.environ, **{name: str(value) for name, value in settings.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.guard = threading.Timer(PATIENCE, self.process.kill)
        self.guard.start()

    def finish(self) -> tuple[int, str, list[str]]:
        """The exit code, standard output, and what was said on standard error."""
        out, err = self.process.communicate()
        self.guard.cancel()
        return self.process.returncode, out, [x for x in err.splitlines() if "[Gloo]" not in x]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(folder: Path, arguments: str, **environment: str | int) -> list[Started]:
    """Two processes on loopback."""
    together = f"{arguments} --coordinator 127.0.0.1:{free_port()} --num-processes 2"
    return [Started(folder, f"{together} --process-id {i}", **environment) for i in range(2)]


def arrays_of(folder: Path, epoch: int = EPOCHS - 1) -> dict[str, Any]:
    return checkpoints.load(folder / "checkpoints" / "run", epoch).arrays


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9), a, b)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run on one device: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outcome = call(f"{RUN} --no-compilation-cache")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 8
    # What follows would prove little if the network had not trained.
    metrics = checkpoints.load(folder / "checkpoints" / "run", 0).metrics
    assert metrics["mean_retrain_iterations"] > 1
    assert metrics["iterations"] > 1
    return folder, outcome.out


def places_of(tree: Any) -> list[tuple[jax.sharding.Sharding, bool]]:
    return [(leaf.sharding, leaf.committed) for leaf in jax.tree.leaves(tree)]


def go_on(folder: Path) -> dict[str, Any]:
    """The arrays of a state that goes on from what a run saved after one epoch, to the second."""
    saved = checkpoints.load(folder / "checkpoints" / "run", 0)
    plan, template = prepare(from_dict(saved.config)[0], saved.initial_conditions)
    state = checkpoints.restore(saved, template)
    # All leaves, or the program of the run would be another one, to be compiled.
    assert places_of(state) == places_of(template)
    return checkpoints.to_arrays(run_two_phase_training(plan, state, 2).state)


THEN = "import test_devices; test_devices.in_a_process_of_many({folder!r})"


def in_a_process_of_many(folder: str) -> None:
    """Keeps how it goes on from a run, and how many devices share some numbers of systems."""
    meshes = [devices.choose_mesh(systems) for systems in (2, 4, 6, 8)]
    kept = (go_on(Path(folder)), [1 if mesh is None else mesh.size for mesh in meshes])
    if processes.is_main():
        Path("kept").write_bytes(pickle.dumps(kept))


def numbers_of(out: str) -> list[dict]:
    """The numbers in the reports of simulations, but not the time that they took."""
    reports = [json.loads(line) for line in out.splitlines()]
    names = ("rule", "scheme", "wall_time")
    return [{n: each for n, each in report.items() if n not in names} for report in reports]


def assert_same_run(folder: Path, reference: tuple[Path, str]) -> list[int]:
    """Training comes to what one device came to; returns the sizes of `in_a_process_of_many`."""
    assert_close(arrays_of(folder), arrays_of(reference[0]))
    # What several devices saved, one goes on from, and the other way round.
    second = arrays_of(reference[0], 1)["state"]
    assert_close(go_on(folder), second)
    gone_on, sizes = pickle.loads((folder / "kept").read_bytes())
    assert_close(gone_on, second)
    return sizes


@pytest.mark.parametrize(
    ("count", "sizes"),
    # That two devices share them, the two processes below show too.
    [pytest.param(2, [2, 2, 2, 2], marks=pytest.mark.slow), (4, [2, 4, 3, 4])],
)
def test_local_devices_share_the_systems(
    count: int, sizes: list[int], reference: tuple[Path, str], tmp_path: Path
) -> None:
    then = THEN.format(folder=str(reference[0]))
    # That they share the rollouts too, the two processes below show.
    run = Started(tmp_path, f"train {TRAINED}", then, JAX_NUM_CPU_DEVICES=count)
    code, _, said = run.finish()
    assert code == 0, said
    assert said[0].startswith(f"device {count} x cpu")
    assert assert_same_run(tmp_path, reference) == sizes


def test_two_processes_of_a_cluster_are_one_run(
    reference: tuple[Path, str], tmp_path: Path
) -> None:
    then = THEN.format(folder=str(reference[0]))
    slurm = {
        "SLURM_JOB_ID": 1,
        "SLURM_NTASKS": 2,
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "JAX_COORDINATOR_PORT": free_port(),
        "WANDB_MODE": "offline",
    }
    arguments = f"{RUN} --distributed --wandb"
    pair = [
        Started(tmp_path, arguments, then, SLURM_PROCID=index, SLURM_LOCALID=index, **slurm)
        for index in range(2)
    ]
    (code, out, said), (other_code, *silence) = (each.finish() for each in pair)
    assert (code, other_code) == (0, 0), (said, silence)
    assert said[0].startswith("device 2 x cpu")
    assert silence == ["", []]
    assert_close(*map(numbers_of, (out, reference[1])))
    assert assert_same_run(tmp_path, reference) == [2, 2, 2, 2]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2  # of train, and of simulate


def test_a_signal_to_any_process_stops_all_at_the_same_call(tmp_path: Path) -> None:
    endless = f"train {TRAINING} --epochs 1000000 --checkpoint-interval 1000000"
    first, second = start_two(tmp_path, endless)
    assert first.process.stdout is not None
    assert first.process.stdout.readline().startswith("Epoch 0")
    second.process.send_signal(signal.SIGINT)
    code, _, said = first.finish()
    other_code, *silence = second.finish()
    assert (code, other_code) == (0, 0), (said, silence)
    assert silence == ["", []]
    interrupted = re.match(r"interrupted in epoch (\d+), .* saved in checkpoints/run/", said[-1])
    assert interrupted is not None
    saved = checkpoints.load(tmp_path / "checkpoints" / "run")
    assert saved.arrays["state"]["epoch"] == int(interrupted[1]) > 0


def test_what_fails_in_one_process_ends_all(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = "simulate --multi-orbit-sim --num-orbits 2 --Nperiod 0 --steps 2"
    first, second = start_two(tmp_path, f"{arguments} --output file/x.npz")
    code, out, said = first.finish()
    assert (code, out) == (2, "")
    assert len(said) == 1 and "--output file/x.npz: cannot be written" in said[0]
    assert second.finish() == (2, "", [])


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_others_and_its_run_goes_on_without_it(
    victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = f"train {TRAINING} --epochs 1000000 --checkpoint-interval 1 --keep 3"
    pair = start_two(tmp_path, endless)
    out = pair[0].process.stdout
    assert out is not None and out.readline().startswith("Epoch 0")
    while not folders.paths_of(tmp_path / "checkpoints" / "run"):
        assert pair[0].process.poll() is None
        time.sleep(0.05)
    pair[victim].process.kill()
    code, _, said = pair[1 - victim].finish()
    killed, *_ = pair[victim].finish()
    assert (code, killed) == (1, -signal.SIGKILL), said
    gone = re.fullmatch(
        rf"jaxstepper train: process {victim} of 2 \(.*, pid {pair[victim].process.pid}\) is gone; "
        r"(checkpoints/run/\d+) is the newest checkpoint; --resume goes on, .*",
        said[-1],
    )
    assert gone is not None, said
    assert sum("device" not in line for line in said[:-1]) <= 2  # of the network, and the folder
    newest = checkpoints.load(tmp_path / "checkpoints" / "run")
    assert newest.path == tmp_path / gone[1]
    monkeypatch.chdir(tmp_path)
    resumed = call(f"train -s run --resume --epochs {newest.epoch + 2} --no-compilation-cache")
    assert resumed.code == 0 and f"goes on from {gone[1]}" in resumed.err


def test_a_process_that_is_alone_is_refused(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    alone = f"simulate --coordinator {address} --num-processes 2 --process-id 1 --join-timeout 0.5"
    code, out, said = Started(tmp_path, alone).finish()
    assert (code, out, len(said)) == (2, "", 1)
    assert f"error: {address}: nobody answers there within 0.5 s" in said[0]


def test_systems_that_do_not_divide(tmp_path: Path) -> None:
    many = "train --multi-orbit --hidden-dims 8 --epochs 1"
    pair = start_two(tmp_path, f"{many} --num-orbits 3")
    for code, out, said in (each.finish() for each in pair):
        assert (code, out) == (2, "")
        assert "2 processes share the systems of a run evenly, and there are 3" in said[-1]


def test_no_cluster_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    code, out, said = Started(tmp_path, "simulate --distributed").finish()
    assert (code, out) == (2, "")
    assert "cannot join" in said[-1] and "--coordinator HOST:PORT" in said[-1]
