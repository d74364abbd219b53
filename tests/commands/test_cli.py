"""Training and export from the command line: streams, exit codes, warnings and checkpoints."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from commandline import (
    BODIES,
    REPORT,
    TINY,
    Outcome,
    assert_refused,
    call,
    outcome_of,
    unchanged_jax,
)

import jaxstepper
from jaxstepper import cli
from jaxstepper.commands import train as train_command
from jaxstepper.errors import UserError
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs import start as prepare
from jaxstepper.runs.writer import RunWriter
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.stored import from_dict

ROOT = Path(__file__).parents[2]
# Steps that are often refused once before they are accepted, and a phase 2 that trains.
TRAIN = f"{TINY} --lr 0.01 --steps-per-epoch 2 --energy-threshold 5e-6 --E_upper 5e-6"


def leaves(tree):
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def bindings(tree):
    return [leaf.committed for leaf in jax.tree.leaves(tree)]


def assert_same_bits(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


class Run(NamedTuple):
    folder: Path
    outcome: Outcome
    saved: dict  # epoch -> leaves of the state that was handed over


def train(folder, *argv):
    saved = {}
    save = RunWriter.save_epoch

    def note_and_save(self, epoch, state, metrics):
        saved[epoch] = leaves(state)
        save(self, epoch, state, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "save_epoch", note_and_save)
        outcome = call(*argv, "--save-name", folder.name, "--checkpoint-dir", folder.parent)
    return Run(folder, outcome, saved)


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "plain", TRAIN, "--epochs 12")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    window = "--epochs 7 --history-len 5 --feature-type delta_mag"
    return train(tmp_path_factory.mktemp("runs") / "history", TINY, window)


def test_the_scripts_train_and_simulate(monkeypatch):
    def script(name, flags):
        path = str(ROOT / "scripts" / name)
        monkeypatch.setattr(sys, "argv", [path, *flags.split()])
        return outcome_of(runpy.run_path, path, run_name="__main__")

    trained = script("train.py", f"--epochs 10 --save-name run {TINY.removeprefix('train')}")
    assert trained.code == 0, trained.err
    outcome = r"part2=(converged|max_iter\(\d+\)), time=\d+\.\d\ds"
    expected = [
        rf"Epoch 0: traj_len=1, {outcome}",
        rf"Epoch 9: traj_len=1, {outcome}",
        "Training summary",
        r"  epochs completed: +10",
        r"  convergence rate: +\d+\.\d%",
        r"  total time: +\d+\.\d\ds",
        r"  final trajectory length: 1",
        r"  final pass rate: +\d+\.\d%",
    ]
    lines = trained.out.splitlines()
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line)
    assert trained.warned.startswith("Multi-orbit training (num_orbits=8)")

    ml = "--integrator-mode ml --model-path run --num-particles 3 --steps 50"
    simulated = script("simulate.py", ml)
    assert simulated.code == 0
    assert re.fullmatch(r"seed \d+\n", simulated.err)
    assert simulated.out.count("\n") == 1
    report = json.loads(simulated.out)
    assert report.keys() == REPORT | {"wall_time"}
    assert report["wall_time"] > 0
    assert report["steps"] == 50
    change = report["energy_final"] - report["energy_initial"]
    assert report["energy_residual"] == pytest.approx(change / report["energy_initial"])


def test_usage_and_unknown_commands():
    assert call().code == 0
    assert all(command in call("--help").out for command in cli.COMMANDS)
    assert_refused(call("fly"), "there is no such command")
    assert call("--version").out == f"jaxstepper {jaxstepper.__version__}\n"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("jaxstepper", "--help"),
        ("jaxstepper.cli", "--version"),
        ("jaxstepper.cli", "train --help"),
        ("jaxstepper", "sweep --help"),
    ],
)
def test_a_reader_that_has_left_is_no_error(module, words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", module, *words.split()]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_console_lines_come_every_tenth_epoch_and_at_the_end(plain):
    assert plain.outcome.code == 0
    assert re.findall(r"^Epoch (\d+): traj_len=2, part2=", plain.outcome.out, re.MULTILINE) == [
        "0",
        "10",
        "11",
    ]


def test_quiet_training_prints_nothing(tmp_path):
    assert call(TRAIN, "--epochs 1 --quiet --num-orbits 1")[:3] == (0, "", "")


def test_warnings_of_a_plain_run_do_not_stop_it():
    flags = "--duration 2 --L_lower 1e-3 --epochs 1 --save-name s"
    outcome = call(TRAIN, flags)
    assert outcome.code == 0
    for words in (
        "Multi-orbit training (num_orbits=8)",
        "Using single orbit",
        "Duration-based training (duration=2) is not supported",
        "--L_lower",
    ):
        assert words in outcome.warned
    assert len(outcome.warned.splitlines()) == 3
    assert folders.epochs_of(Path("checkpoints/s")) == [0]
    # Nobody asked for many orbits of a file.
    Path("three.csv").write_text("1 -.5 0 0 -.5\n1 .5 0 0 .5\n1 0 2 .5 0\n")
    outcome = call(TRAIN, "--ic-path three.csv --epochs 1 --save-name file")
    assert (outcome.code, outcome.warned) == (0, "")


def test_the_warning_of_many_orbits_is_an_ordinary_one(monkeypatch):
    def stop(*_, **__):
        raise UserError("enough")

    monkeypatch.setattr(train_command, "open_wandb", stop)
    request = parse("train", f"{TINY} --device cpu --num-orbits 4".split()[1:])
    with (
        pytest.warns(UserWarning, match=r"\(num_orbits=4\).*Using single orbit"),
        pytest.raises(UserError, match="enough"),
        unchanged_jax(),
    ):
        train_command.run_train(request)


# --- checkpoints -----------------------------------------------------------------------------


def test_checkpoints_are_kept_at_the_first_each_tenth_and_the_last_epoch(plain):
    assert folders.epochs_of(plain.folder) == [0, 10, 11]


@pytest.mark.parametrize("kind", ["plain", "history"])
def test_a_restored_state_is_the_saved_one_bit_for_bit(kind, request):
    run = request.getfixturevalue(kind)
    for epoch in folders.epochs_of(run.folder):
        checkpoint = checkpoints.load(run.folder, epoch)
        config, _ = from_dict(checkpoint.config)
        _, like = prepare.prepare(config, checkpoint.initial_conditions)
        state = checkpoints.restore(checkpoint, like)
        assert jax.tree.structure(state) == jax.tree.structure(like)
        # Else the program of a run that goes on is another one, to be compiled.
        assert bindings(state) == bindings(like)
        assert_same_bits(leaves(state), run.saved[epoch])
    assert len(run.saved[epoch]) > 30


def test_a_checkpoint_keeps_config_metrics_and_initial_conditions(plain):
    checkpoint = checkpoints.load(plain.folder)
    config, unknown = from_dict(checkpoint.config)
    assert unknown == {}
    assert (config.epochs, config.hidden_dims, config.lr) == (12, (8, 8), 0.01)
    assert (config.save_name, config.seed, config.num_particles) == ("plain", 0, 3)
    assert checkpoint.epoch == checkpoint.metrics["epoch"] == 11
    assert f"time={checkpoint.metrics['epoch_time']:.2f}s" in plain.outcome.out
    table = random_table(0, 3, 2, 1.0, 0.1, 1.0)
    np.testing.assert_array_equal(checkpoint.initial_conditions, table[None])


def test_a_state_of_another_shape_is_refused(plain, history):
    checkpoint = checkpoints.load(plain.folder)
    config, _ = from_dict(checkpoints.load(history.folder).config)
    _, like = prepare.prepare(config, checkpoint.initial_conditions)
    with pytest.raises(UserError, match="holds another kind of run"):
        checkpoints.restore(checkpoint, like)


def test_an_earlier_run_is_refused_or_overwritten(tmp_path):
    again = f"{TRAIN} --save-name r --num-orbits 1 --quiet --epochs"
    run = tmp_path / "checkpoints" / "r"
    assert call(again, "2").code == 0
    before = contents(run)
    assert_refused(call(again, "1"), "checkpoints/r", "--resume", "--overwrite", "--save-name")
    assert contents(run) == before
    (run / "notes.txt").write_text("mine")
    assert call(again, "1 --overwrite").code == 0
    assert folders.epochs_of(run) == [0]
    assert (run / "notes.txt").read_text() == "mine"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def simulate(*argv):
    (report,) = call(f"simulate --no-compilation-cache {BODIES} --steps 20", *argv).reports()
    return report


def test_model_path_takes_a_name_a_folder_an_epoch_or_a_pt_file(plain, tmp_path):
    ml = "--integrator-mode ml --model-path"
    by_name = simulate(ml, "plain", "--checkpoint-dir", plain.folder.parent)
    assert simulate(ml, plain.folder) == by_name
    assert simulate(ml, plain.folder / "11") == by_name
    assert simulate(ml, plain.folder / "0") != by_name
    pytest.importorskip("torch")
    assert call("export", plain.folder, "--out", tmp_path / "last.pt").code == 0
    assert simulate(ml, "last.pt") == by_name


def test_training_goes_on_from_the_weights_of_a_model(plain, monkeypatch):
    started = []

    def stop(plan, state, epochs, **_):
        started.append(leaves(state.variables["params"]))
        raise UserError("enough")

    monkeypatch.setattr(train_command, "run", stop)
    for epoch in (0, 11):
        call(f"train {BODIES} --no-compilation-cache --model-path", plain.folder / str(epoch))
    for weights, epoch in zip(started, (0, 11), strict=True):
        kept = checkpoints.load(plain.folder, epoch).variables["params"]
        assert_same_bits(weights, leaves(kept))


@pytest.mark.parametrize("command", ["train", "simulate --integrator-mode ml"])
def test_another_network_than_the_model_is_refused(plain, tmp_path, command):
    outcome = call(command, "--model-path", plain.folder, "--hidden-dims 9 9")
    assert_refused(outcome, "--hidden-dims 9 9", "was trained with 8 8")
    assert list(tmp_path.iterdir()) == []


# --- modes and dtypes ------------------------------------------------------------------------


def test_history_mode_follows_a_trained_history(history):
    checkpoint = checkpoints.load(history.folder)
    assert checkpoint.config["history_len"] == 5
    assert checkpoint.config["feature_type"] == "delta_mag"
    assert checkpoint.variables["params"]["Dense_0"]["kernel"].shape == (10 * 5, 8)
    report = simulate("--integrator-mode history --model-path", history.folder)
    assert report.keys() == REPORT
    assert report["steps"] == 20


def test_modes_that_do_not_fit_the_checkpoint_are_refused(plain, history):
    ml = call("simulate --integrator-mode ml --model-path", history.folder)
    assert_refused(ml, "--integrator-mode ml", "history of 5 states")
    other = call("simulate --integrator-mode history --model-path", plain.folder)
    assert_refused(other, "--integrator-mode history", "trained without a history")


def test_float32_is_kept_from_training_to_export(tmp_path):
    run = train(tmp_path / "run", TINY, "--epochs 1 --dtype float32")
    assert run.outcome.code == 0
    kinds = {leaf.dtype.name for leaf in run.saved[0] if leaf.dtype.kind == "f"}
    assert kinds == {"float32"}
    ml = "--integrator-mode ml --model-path run --output run.npz --checkpoint-dir ."
    assert simulate(ml)["steps"] == 20
    assert np.load("run.npz")["position"].dtype == np.float32
    torch = pytest.importorskip("torch")
    assert call("export run --out run.pt --checkpoint-dir .").code == 0
    file = torch.load("run.pt", weights_only=True)
    assert file["dtype"] == "float32"
    assert {each.dtype for each in file["model_state_dict"].values()} == {torch.float32}


def test_a_stuck_sgd_run_ends_with_code_1_and_exports_no_optimizer(tmp_path):
    hopeless = "--optimizer sgd --energy-threshold 1e-30 --max-retrain-steps 3"
    run = train(tmp_path / "run", TINY, hopeless, "--quiet --num-orbits 1")
    assert run.outcome.code == 1
    assert run.outcome.err.startswith("stuck at epoch 0, step 0, system 0")
    assert run.outcome.err.count("\n") == 1
    assert [path.name for path in folders.paths_of(run.folder)] == ["0.1"]
    torch = pytest.importorskip("torch")
    assert call("export run --out run.pt --checkpoint-dir .").code == 0
    file = torch.load("run.pt", weights_only=True)
    assert file["optimizer_state_dict"] is None
    assert file["optimizer_state"] is None


# --- both, export ----------------------------------------------------------------------------


def test_both_prints_json_alone_on_standard_output(tmp_path):
    outcome = call("both", TRAIN.removeprefix("train"), "--epochs 1 --steps 7 --save-name run")
    assert outcome.code == 0
    (report,) = outcome.reports()
    assert report.keys() == REPORT
    assert report["steps"] == 7
    assert "Epoch 0: traj_len=2" in outcome.err
    assert report == simulate("--integrator-mode ml --model-path run --steps 7")


def test_export_writes_the_newest_all_or_a_chosen_epoch(plain, tmp_path):
    torch = pytest.importorskip("torch")
    run = plain.folder

    def export(*argv):
        return call("export", *argv).out.splitlines()

    every = [f"all/model_epoch_{epoch:04d}.pt" for epoch in (0, 10, 11)]
    assert export(run, "--all", "--out", "all") == every
    assert export(run, "--out", "new") == ["new/model_epoch_0011.pt"]
    assert export(run / "10", "--out", "ten.pt") == ["ten.pt"]
    (own,) = export(run, "--epoch", "10")
    assert Path(own) == run / "model_epoch_0010.pt"
    for path, epoch in ((own, 10), ("ten.pt", 10), ("new/model_epoch_0011.pt", 11)):
        file = torch.load(path, weights_only=True)
        assert file["epoch"] == epoch
        kept = checkpoints.load(plain.folder, epoch)
        kernel = kept.variables["params"]["Dense_1"]["kernel"]
        np.testing.assert_array_equal(file["model_state_dict"]["model.2.weight"], kernel.T)
        assert file["extra"]["train_ic"] == kept.initial_conditions[0].tolist()
        assert file["config"]["lr"] == 0.01


def test_export_refuses_what_it_cannot_write(plain, tmp_path):
    assert_refused(call("export", plain.folder, "--epoch 5"), "holds 0, 10, 11")
    assert_refused(call("export", plain.folder, "--all --out one.pt"), "3 epochs")
    assert_refused(call("export", plain.folder, "--bogus"), "--bogus")
    assert list(tmp_path.iterdir()) == []
    Path("file").touch()
    assert_refused(call("export", plain.folder, "--out", "file"), "--out file")
