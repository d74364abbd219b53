"""A run that was cut short, wherever, comes to the end it would have come to."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from commandline import TINY, assert_refused, call

from jaxstepper.commands import train as train_command
from jaxstepper.commands import train_job
from jaxstepper.reporting import console
from jaxstepper.runs import checkpoints, folders, seal
from jaxstepper.runs.writer import superseded, unwanted

ROOT = Path(__file__).parents[2]
# In calls of three attempts, as of a run that is cut, a long phase 2 is many calls.
SHORT = f"{TINY} --replay-steps 20"
# Steps that are often refused before they are accepted, a phase 2 that trains, and dropout.
ONE = f"{SHORT} --num-orbits 1 --lr 0.01 --energy-threshold 5e-6 --E_upper 5e-6 --dropout 0.2"
WINDOW = f"{SHORT} --num-orbits 1 --history-len 3 --feature-type delta_mag --dtype float32"
MANY = f"{SHORT} --draw random --multi-orbit --num-orbits 3 --fresh-every 2 --band both"
RUNS = {"one": ONE, "window": WINDOW, "many": MANY}
EPOCHS = "--epochs 7 --checkpoint-interval 3 --quiet --save-name"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory):
    """A run that was never interrupted: its flags and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = call(RUNS[request.param], EPOCHS, "run --checkpoint-dir", folder)
    assert outcome.code == 0, outcome.err
    return RUNS[request.param], folder / "run"


def stop_after(calls):
    """Instead of waiting for signals: a stop after so many device calls."""

    @contextmanager
    def stop(*_):
        left = iter([False] * calls)
        yield lambda: next(left, True)

    return stop


def metrics_lines(run):
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in line if name != "epoch_time"} for line in lines]


def names(run):
    return [path.name for path in folders.paths_of(run)]


def assert_same_end(mine, theirs):
    a, b = checkpoints.load(mine), checkpoints.load(theirs)
    assert jax.tree.structure(a.arrays) == jax.tree.structure(b.arrays)
    for x, y in zip(jax.tree.leaves(a.arrays), jax.tree.leaves(b.arrays), strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()
    del a.metrics["epoch_time"], b.metrics["epoch_time"]
    assert a.metrics == b.metrics
    assert metrics_lines(mine) == metrics_lines(theirs)


# --- resume ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whole", "calls"),
    [("one", 0), ("one", 2), ("one", 5), ("window", 2), ("many", 5)],
    indirect=["whole"],
)
def test_a_run_that_was_cut_ends_like_one_that_was_not(whole, calls, monkeypatch):
    flags, uncut = whole
    monkeypatch.setattr(
        "jaxstepper.training.two_phase.objective.TwoPhase.first_budget", 2
    )  # attempts: cuts within epochs
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 3)
    run = Path("checkpoints/run")
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "stop_on_signal", stop_after(calls))
        cut = call(flags, EPOCHS, "run")
    assert cut.code == 0
    assert "interrupted in epoch" in cut.err
    newest = names(run)[-1]
    assert f"saved in {run / newest}" in cut.err
    epoch = checkpoints.load(run).arrays["state"]["epoch"]
    assert 6 not in folders.epochs_of(run)
    resumed = call(flags, EPOCHS, "run --resume")
    assert (resumed.code, resumed.err) == (0, "")
    assert_same_end(run, uncut)
    assert names(run) == ["0", "3", "6"]
    assert epoch < 7


def test_the_newest_checkpoint_is_the_start_even_if_more_epochs_were_told_of(tmp_path):
    assert call(ONE, EPOCHS, "run").code == 0
    killed, uncut = Path("checkpoints/killed"), Path("checkpoints/run")
    for epoch in (0, 3):
        move(uncut / str(epoch), killed / str(epoch))
    told = (uncut / "metrics.jsonl").read_text()
    (killed / "metrics.jsonl").write_text(told[: len(told) * 9 // 10])  # killed while writing
    assert call("train --resume --save-name killed").code == 0
    assert_same_end(killed, uncut)


def move(folder, to):
    to.parent.mkdir(exist_ok=True)
    folder.rename(to)


def test_more_epochs_extend_a_run_and_fewer_change_nothing(whole):
    flags, uncut = whole
    assert call(flags, EPOCHS, "run --epochs 4").code == 0
    run = Path("checkpoints/run")
    assert names(run) == ["0", "3"]
    before = (run / "metrics.jsonl").read_bytes()
    done = call("train --resume --save-name run --epochs 2")
    assert (done.code, done.err, names(run)) == (0, "", ["0", "3"])
    assert (run / "metrics.jsonl").read_bytes() == before
    assert call("train --resume --save-name run --epochs 7 --quiet").code == 0
    assert_same_end(run, uncut)


def test_another_config_is_refused_by_name_unless_it_is_harmless(tmp_path):
    assert call(ONE, EPOCHS, "run --epochs 1").code == 0
    before = (tmp_path / "checkpoints/run/metrics.jsonl").read_bytes()
    Path("my.toml").write_text('[train]\nlr = 0.5\nfeature_type = "rich"\n')
    refused = call("train --resume --save-name run --config my.toml --seed 3 --dropout 0.2")
    words = ("lr = 0.5 (was 0.01)", "feature_type", "(was delta_mag)", "--seed 3 (was 0)")
    assert_refused(refused, "--resume", *words)
    assert "dropout" not in refused.err
    assert (tmp_path / "checkpoints/run/metrics.jsonl").read_bytes() == before
    harmless = "--epochs 2 --checkpoint-interval 1 --keep 1 --quiet --movie-fps 3 --L_lower 1"
    assert call("train --resume --save-name run", harmless).code == 0


def test_what_cannot_be_resumed():
    assert_refused(call("train --resume"), "--resume needs --save-name")
    assert_refused(call("train --resume --overwrite --save-name x"), "contradict")
    assert not Path("checkpoints").exists()
    started = call(ONE, "--epochs 1 --resume --save-name run")
    assert started.code == 0
    assert "checkpoints/run: no checkpoint to resume from" in started.err


def test_both_follows_the_history_of_the_run_it_resumes():
    assert call(WINDOW, EPOCHS, "run --epochs 1").code == 0
    outcome = call("both --resume --save-name run --num-particles 3 --steps 5 --quiet")
    assert outcome.code == 0
    assert outcome.reports()[0]["steps"] == 5


# --- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "times"), [("SIGINT", 1), ("SIGTERM", 1), ("SIGTERM", 2), ("SIGUSR1", 1)]
)
def test_a_signal_saves_says_where_and_leaves(name, times, monkeypatch):
    """Also one that comes twice, as those of `timeout` do."""
    monkeypatch.setattr("jaxstepper.commands.signals.SECONDS_TO_ANOTHER", 60.0)
    epoch = console.Console.epoch

    def signal_in_epoch_3(self, metrics):
        epoch(self, metrics)
        if metrics["epoch"] == 3:
            for _ in range(times):
                os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(console.Console, "epoch", signal_in_epoch_3)
    before = signal.getsignal(getattr(signal, name))
    outcome = call(ONE, "--epochs 1000 --quiet --save-name run")
    assert outcome.code == 0
    assert f"{name}: stops and saves" in outcome.err
    newest = folders.paths_of(Path("checkpoints/run"))[-1]
    assert f"saved in {newest}; --resume goes on" in outcome.err
    assert signal.getsignal(getattr(signal, name)) == before


# A device call that never ends: no Python instruction runs in it.
ENDLESS = """
import jax
from jaxstepper.commands.signals import stop_on_signal
with stop_on_signal(lambda: print("at once", flush=True)):
    print("calls", flush=True)
    jax.jit(lambda: jax.lax.while_loop(lambda i: i >= 0, lambda i: i & 1, 0))().block_until_ready()
"""


@pytest.mark.processes
def test_a_second_signal_leaves_at_once():
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert "calls" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert "again to leave at once" in process.stdout.readline()
        while process.poll() is None:  # too soon, it counts as the first
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.returncode == 128 + signal.SIGTERM
        assert process.stdout.read() == "at once\n"


# --- damage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    assert call(ONE, EPOCHS, "run --checkpoint-dir", folder).code == 0
    return folder / "run"


def copy_of(run, to):
    to.mkdir(parents=True)
    for path in folders.paths_of(run):
        shutil.copytree(path, to / path.name)
    return to


def data_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def truncate(folder):
    largest = max(data_files(folder), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip_a_bit(folder):
    largest = max(data_files(folder), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 16
    largest.write_bytes(data)


def delete_half(folder):
    for path in data_files(folder)[::2]:
        path.unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def change_a_metric(folder):
    about = folder / "_CHECKPOINT_METADATA"
    about.write_text(about.read_text().replace('"seed": 0', '"seed": 1'))


FAULTS = (truncate, flip_a_bit, delete_half, empty, change_a_metric)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_newest_intact_checkpoint_stands_in_for_a_damaged_one(fault, kept, tmp_path):
    run = copy_of(kept, tmp_path / "checkpoints" / "run")
    fault(run / "6")
    outcome = call("simulate --integrator-mode ml --model-path run --num-particles 3 --steps 2")
    assert outcome.code == 0
    assert f"{Path('checkpoints/run/6')}: damaged" in outcome.warned
    assert outcome.warned.endswith("run/3 is used")
    assert outcome.warned.count("\n") == 0
    resumed = call("train --resume --save-name run --quiet")
    assert resumed.code == 0
    assert "run/6: damaged" in resumed.warned
    checkpoints.read(run / "6")
    assert_same_end_of_arrays(run, kept)


def assert_same_end_of_arrays(mine, theirs):
    a, b = checkpoints.load(mine).arrays, checkpoints.load(theirs).arrays
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.tobytes() == y.tobytes()


def test_without_an_intact_checkpoint_a_line_says_so(kept, tmp_path):
    run = copy_of(kept, tmp_path / "checkpoints" / "run")
    for path in folders.paths_of(run):
        flip_a_bit(path)
    ml = "simulate --integrator-mode ml --model-path run"
    assert_refused(call(ml), "checkpoints/run/6: damaged", "the 2 older ones")
    assert_refused(call(f"{ml}/3"), "checkpoints/run/3: damaged")
    assert_refused(call("train --resume --save-name run"), "checkpoints/run/6: damaged")
    assert_refused(call("export run"), "checkpoints/run/6: damaged")


def test_a_checkpoint_of_a_newer_version_is_not_skipped(kept, tmp_path):
    run = copy_of(kept, tmp_path / "run")
    about = run / "6" / "_CHECKPOINT_METADATA"
    (run / "6" / "SHA256SUMS").unlink()
    old = f'"format": {checkpoints.FORMAT}'
    assert old in about.read_text()
    about.write_text(about.read_text().replace(old, f'"format": {checkpoints.FORMAT + 1}'))
    seal.seal(run / "6")
    outcome = call("simulate --integrator-mode ml --model-path", run)
    assert_refused(outcome, "written by a newer jaxstepper")


def test_any_flipped_bit_is_noticed(kept, tmp_path):
    draw = random.Random(0)
    folder = copy_of(kept, tmp_path / "run") / "6"
    files = data_files(folder)
    checkpoints.read(folder)
    for _ in range(200):
        path = draw.choice(files)
        before = path.read_bytes()
        data = bytearray(before)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(seal.Damaged):
            checkpoints.read(folder)
        path.write_bytes(before)
    checkpoints.read(folder)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the command sha256sum")
def test_the_checksums_are_those_of_sha256sum(kept):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=kept / "6", check=True)


# --- a full disk -----------------------------------------------------------------------------


# The limit counts for a whole process, so it is set in one of its own.
WITH_SMALL_FILES = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
from jaxstepper import cli
cli.main(None, sys.argv[1:])
"""


@pytest.mark.processes
def test_a_disk_that_takes_no_more_keeps_what_was_saved_and_ends_with_code_1():
    pytest.importorskip("resource")
    assert call(ONE, EPOCHS, "run --epochs 4").code == 0
    run = Path("checkpoints/run")
    resume = "train --resume --save-name run --epochs 8 --quiet --no-compilation-cache"
    full = subprocess.run(
        [sys.executable, "-c", WITH_SMALL_FILES, *resume.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert full.returncode == 1, full.stderr
    assert "run/6: could not be saved" in full.stderr
    assert "run/7: could not be saved" in full.stderr
    assert "could not be saved (" in full.stderr and "run/3 is the newest" in full.stderr
    assert sorted(each.name for each in run.iterdir()) == ["0", "3", "metrics.jsonl"]
    assert call("train --resume --save-name run --epochs 8 --quiet").code == 0
    assert names(run) == ["0", "3", "6", "7"]


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    outcome = call(ONE, EPOCHS, "run --epochs 1")
    assert outcome.code == 1
    assert re.search(r"run/0: could not be saved \(No space left on device: a.*MB", outcome.warned)
    assert "nothing is saved" in outcome.err
    assert [each.name for each in Path("checkpoints/run").iterdir()] == ["metrics.jsonl"]


def test_a_disk_with_room_again_is_used_again(tmp_path, monkeypatch):
    write = checkpoints.write

    def write_all_but_one(path, *args, **about):
        if path.name == "3":
            raise OSError(28, "No space left on device")
        return write(path, *args, **about)

    monkeypatch.setattr(checkpoints, "write", write_all_but_one)
    outcome = call(ONE, EPOCHS, "run")
    assert outcome.code == 0
    assert "run/3: could not be saved (No space left on device)" in outcome.warned
    assert names(Path("checkpoints/run")) == ["0", "6"]


# --- what is kept ----------------------------------------------------------------------------


def test_checkpoints_also_come_by_the_clock():
    flags = "--epochs 9 --checkpoint-interval 100 --checkpoint-minutes 1e-9"
    assert call(ONE, flags, "--quiet --save-name run").code == 0
    run = Path("checkpoints/run")
    # Those in the middle are deleted once a later one is whole.
    assert names(run) == ["0", "8"]


def test_the_newest_and_the_best_are_kept(tmp_path):
    run = tmp_path / "run"
    about = {"config": {}, "about": {}}
    rates = {"0": 0.5, "1": 0.9, "2": 0.9, "3.1": 0.9, "3": 0.2, "4": 0.3, "4.1": 0.3}
    for name, rate in rates.items():
        metrics = {"final_pass_rate": rate}
        checkpoints.write(run / name, {"x": np.ones(3)}, np.ones(2), metrics=metrics, **about)()
    paths = folders.paths_of(run)
    assert [path.name for path in paths] == ["0", "1", "2", "3.1", "3", "4.1", "4"]
    assert [path.name for path in superseded(paths)] == ["3.1", "4.1"]
    assert [path.name for path in unwanted(paths, 1)] == ["0", "1", "3.1", "3", "4.1"]
    assert [path.name for path in unwanted(paths, 2)] == ["0", "1", "3.1", "4.1"]
    assert [path.name for path in unwanted(paths[:-1], 1)] == ["0", "1", "3.1", "3"]


def test_keep_deletes_nothing_while_the_newest_is_damaged(monkeypatch):
    write = checkpoints.write

    def write_badly(path, *args, **about):
        wait = write(path, *args, **about)

        def damage():
            wait()
            if path.name == "6":
                flip_a_bit(path)

        return damage

    monkeypatch.setattr(checkpoints, "write", write_badly)
    outcome = call(ONE, EPOCHS, "run --keep 1 --epochs 7")
    assert outcome.code == 0
    run = Path("checkpoints/run")
    assert "6" in names(run) and len(names(run)) >= 2
    assert "older checkpoints are kept" in outcome.warned


# --- numbers gone bad ------------------------------------------------------------------------


def test_a_network_gone_bad_names_the_place_and_the_last_good_checkpoint(monkeypatch):
    assert call(ONE, EPOCHS, "run --epochs 2").code == 0
    resume_training = train_job.resume_training

    def resume_badly(*args):
        plan, state = resume_training(*args)
        params = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), state.variables["params"])
        return plan, state.replace(variables={**state.variables, "params": params})

    monkeypatch.setattr(train_job, "resume_training", resume_badly)
    outcome = call("train --resume --save-name run --epochs 5 --quiet")
    assert outcome.code == 1
    assert "epoch 2, step 0: the network or its dt is no longer finite" in outcome.err
    assert "the last good checkpoint is checkpoints/run/1" in outcome.err
    assert names(Path("checkpoints/run")) == ["0", "1"]


# --- kills -----------------------------------------------------------------------------------


def start(*argv, **options):
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train.py", *" ".join(argv).split()[1:]],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.mark.processes
@pytest.mark.slow
def test_fifty_killed_runs_end_like_one_that_was_not_killed(tmp_path):
    """Killed at random, in set-up, training and saving, each is resumed until it is done."""
    flags = f"{ONE} --epochs 20 --checkpoint-interval 1 --quiet --hidden-dims 64 64"
    flags = flags.replace("--no-compilation-cache", "")
    draw = random.Random(0)
    with start(flags, "--save-name whole") as whole:
        assert whole.wait() == 0, whole.stdout.read()
    kills = []
    for number in range(50):
        run = tmp_path / "checkpoints" / f"run{number}"
        kills.append(0)
        saved: set[str] = set()
        while True:
            with start(flags, f"--resume --save-name run{number}") as process:
                finished = not killed_in_time(process, run, len(saved) + draw.randrange(8), draw)
                kills[-1] += not finished
            assert saved <= set(names(run))
            whole_ones = [path.parent for path in run.glob("*/SHA256SUMS")]
            for path in whole_ones:
                checkpoints.read(path)
            saved = {path.name for path in whole_ones}
            if finished:
                assert process.returncode == 0
                break
        assert_same_end(run, tmp_path / "checkpoints" / "whole")
    print(f"50 runs, {sum(kills)} kills, {min(kills)} to {max(kills)} each")
    assert min(kills) > 0


def killed_in_time(process, run, checkpoints_there, draw):
    """Kills a run some time after it has so many checkpoints, unless it ends before; says so."""
    while len(list(run.glob("*/SHA256SUMS"))) < checkpoints_there:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    try:
        process.wait(draw.uniform(0, 0.5) if checkpoints_there else draw.uniform(0, 1.5))
    except subprocess.TimeoutExpired:
        process.kill()
        return True
    return False
