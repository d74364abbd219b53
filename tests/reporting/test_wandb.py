"""Weights & Biases, for real but without a network: what a run leaves on disk, and how it fails."""

import json
import struct
import sys
from pathlib import Path

import pytest
from commandline import TINY, assert_refused, call

from jaxstepper.commands import train as train_command
from jaxstepper.errors import UserError
from jaxstepper.pictures import training_picture as plots
from jaxstepper.runs import checkpoints
from jaxstepper.torch_files import file as torch_bridge

wandb = pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2 as protocol  # noqa: E402

LOGGED = f"{TINY} --num-orbits 1 --epochs 2 --wandb --save-name run --quiet"
PART_1 = """
    trajectory_length mean_retrain_iterations max_retrain_iterations mean_energy_error
    min_energy_error max_energy_error warmup_discarded acceptance_rate mean_retrain_loss
    max_retrain_loss mean_retrain_rel_dE max_retrain_rel_dE
"""
PART_2 = "converged iterations final_pass_rate mean_rel_dE max_rel_dE"


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c636060606000000005000170a8b4f30000000049454e44ae426082"
)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Runs whose curves were drawn; a picture is one pixel, which is soon there."""
    runs = []

    def draw(run, path):
        runs.append(run)
        path.write_bytes(PIXEL)

    monkeypatch.setattr(plots, "plot_training", draw, raising=False)
    return runs


@pytest.fixture(autouse=True)
def _offline_in_an_empty_folder(tmp_path, monkeypatch):
    for name in ("API_KEY", "BASE_URL", "PROJECT", "NAME", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()  # it reads the environment once


def records(folder):
    """The records of the one offline run in a folder, in order: LevelDB's log format."""
    wandb.teardown()  # its service writes the file, and may be behind
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, block, header = path.read_bytes(), 32768, 7
    at, whole = header, b""
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + header])
        at += header
        whole += data[at : at + length]
        at += length
        if kind in (1, 4):  # complete, or the last part
            yield protocol.Record.FromString(whole)
            whole = b""


def of_kind(folder, kind):
    found = [record for record in records(folder) if record.WhichOneof("record_type") == kind]
    return [getattr(record, kind) for record in found]


def logged(folder):
    """What was logged, call by call."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each.item}
        for each in of_kind(folder, "history")
    ]


def artifacts(folder):
    """The artifacts of a run, by name and type: the copies that would be sent, by name."""
    return {
        (each.name, each.type): {
            entry.path: Path(entry.local_path) for entry in each.manifest.contents
        }
        for each in of_kind(folder, "artifact")
    }


def summary(folder):
    """The values of a run's summary."""
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for each in of_kind(folder, "summary")
        for item in each.update
    }


def test_a_run_is_logged_with_its_config_and_every_key_of_every_epoch(tmp_path, drawn):
    outcome = call(LOGGED)
    assert outcome[:3] == (0, "", "")
    run = of_kind(tmp_path, "run")[0]
    assert (run.project, run.display_name) == ("jaxstepper", "run")
    config = {each.key: json.loads(each.value_json) for each in run.config.update}
    kept = checkpoints.load(Path("checkpoints/run"))
    assert {name: config[name] for name in kept.config} == kept.config
    assert config["hidden_dims"] == [8, 8]
    *history, picture = logged(tmp_path)
    assert [row["epoch"] for row in history] == [0, 1]
    assert picture["figures/training/format"] == "png" and drawn == [Path("checkpoints/run")]
    keys = {"epoch", "epoch_time"}
    keys |= {f"part1/{name}" for name in PART_1.split()}
    keys |= {f"part2/{name}" for name in PART_2.split()}
    for row in history:
        assert {name for name in row if not name.startswith("_")} == keys
    assert history[1]["part1/max_energy_error"] == kept.metrics["max_energy_error"]
    assert history[1]["epoch_time"] == kept.metrics["epoch_time"]
    assert [each.exit_code for each in of_kind(tmp_path, "exit")] == [0]
    epoch, others = of_kind(tmp_path, "metric")
    assert epoch.name == "epoch"
    assert (others.glob_name, others.step_metric) == ("*", "epoch")
    values = summary(tmp_path)
    assert values["epochs"] == 2 and values["stopped"] == "completed"
    assert values["convergence_rate"] == 1.0 and values["total_time"] > 0
    for name in ("final_pass_rate", "max_energy_error", "trajectory_length"):
        assert values[f"final/{name}"] == kept.metrics[name]


def test_the_newest_checkpoint_and_its_export_are_kept_as_one_artifact(tmp_path):
    outcome = call(LOGGED, "--wandb-artifacts")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    ((about, files),) = artifacts(tmp_path).items()
    assert about == ("run", "model")
    run = Path("checkpoints/run")
    there = [path for path in (run / "1").rglob("*") if path.is_file()]
    assert files.keys() == {str(path.relative_to(run)) for path in there} | {"model_epoch_0001.pt"}
    for path in there:
        assert files[str(path.relative_to(run))].read_bytes() == path.read_bytes()
    exported = torch_bridge.read(files["model_epoch_0001.pt"])
    kept = checkpoints.load(run).variables["params"]["Dense_0"]["kernel"]
    assert exported.variables["params"]["Dense_0"]["kernel"].tobytes() == kept.tobytes()


def test_what_has_no_export_or_no_figures_says_so_in_a_line_each(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("it is not to be had")

    monkeypatch.setattr(plots, "plot_training", refuse, raising=False)
    monkeypatch.setattr(torch_bridge, "write", refuse)
    outcome = call(LOGGED, "--wandb-artifacts")
    assert outcome.code == 0
    figures, export = outcome.err.splitlines()
    assert figures == "W&B: no figures: it is not to be had"
    assert export == "W&B: the checkpoint is kept without a .pt file: it is not to be had"
    ((_, files),) = artifacts(tmp_path).items()
    assert "1/SHA256SUMS" in files and "model_epoch_0001.pt" not in files


def test_a_simulation_logs_its_report_and_keeps_its_trajectory(tmp_path):
    flags = "simulate --no-compilation-cache --num-particles 3 --seed 0 --steps 5 --quiet"
    outcome = call(flags, "--dt 1e-5 --wandb --wandb-artifacts --output path.npz")
    assert outcome.code == 0
    (row,) = logged(tmp_path)
    report = json.loads(outcome.out)
    assert {name: value for name, value in row.items() if not name.startswith("_")} == report
    assert of_kind(tmp_path, "metric") == []
    ((about, files),) = artifacts(tmp_path).items()
    assert about == ("path", "trajectory")
    assert files["path.npz"].read_bytes() == Path("path.npz").read_bytes()


def test_artifacts_without_a_run_are_said_to_be_none(tmp_path):
    flags = LOGGED.replace("--wandb", "--wandb-artifacts")
    outcome = call(flags)
    assert outcome.code == 0
    assert outcome.err == "--wandb-artifacts: nothing is kept without --wandb\n"
    assert not (tmp_path / "wandb").exists()


def test_a_training_that_fails_ends_its_run_as_failed(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(train_command, "run", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        call(LOGGED, "--wandb-name named --wandb-project other")
    assert wandb.run is None
    run = of_kind(tmp_path, "run")[0]
    assert (run.project, run.display_name) == ("other", "named")
    assert [each.exit_code for each in of_kind(tmp_path, "exit")] == [1]


def test_a_resumed_run_goes_on_in_the_same_place(tmp_path):
    assert call(LOGGED).code == 0
    wandb.teardown()
    (first,) = tmp_path.glob("wandb/offline-run-*")
    first = first.rename(tmp_path / first.name)  # folders are named by the second
    assert call("train --resume --save-name run --epochs 3").code == 0
    wandb.teardown()
    (second,) = tmp_path.glob("wandb/offline-run-*")
    assert second.name.split("-")[-1] == first.name.split("-")[-1]


def test_without_the_package_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert_refused(call(LOGGED), "--wandb", "pip install wandb")
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_one_line_names_offline_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    assert_refused(call(LOGGED), "--wandb", "WANDB_MODE=offline", "wandb login")
    assert not (tmp_path / "checkpoints").exists()


def test_an_unreachable_server_is_given_up_with_one_line(tmp_path, monkeypatch):
    settings, waits = wandb.Settings, []

    def impatient(*, init_timeout, **others):
        waits.append(init_timeout)
        return settings(init_timeout=2, **others)

    monkeypatch.setattr(wandb, "Settings", impatient)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    outcome = call(LOGGED)
    lines = [line for line in outcome.err.splitlines() if not line.startswith("wandb: ")]
    assert_refused(outcome._replace(err="\n".join(lines) + "\n"), "--wandb", "WANDB_MODE=offline")
    assert not (tmp_path / "checkpoints").exists()
    assert waits == [30]
