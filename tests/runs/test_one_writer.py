"""Two who would write into one run, and readers beside a writer."""

import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import sandbox
from commandline import TINY, assert_refused, call
from filelock import FileLock

from jaxstepper.errors import UserError
from jaxstepper.runs import checkpoints, folders, jax_setup, lock
from jaxstepper.runs.lock import HOLDER, LOCK, locked

ROOT = Path(__file__).parents[2]
TRAIN = f"{TINY} --num-orbits 1 --checkpoint-interval 1"
HOLD = """
import sys, time
from pathlib import Path
from jaxstepper.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, and its file for the torch simulator."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call(TRAIN, "--epochs 2 --quiet -s run").code == 0
        assert call("export run --out file.pt").code == 0
    return folder


@pytest.fixture
def box(trained, tmp_path):
    sandbox.copy(trained, tmp_path)
    return tmp_path


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- writers ---------------------------------------------------------------------------------


def test_the_second_writer_is_told_who_the_first_is(tmp_path):
    run = tmp_path / "a" / "run"
    with locked(run):
        with pytest.raises(UserError) as told, locked(run):
            pass
        # The refused one has let the first keep its lock.
        with pytest.raises(UserError), locked(run):
            pass
    where, who = re.escape(str(run)), f"process {os.getpid()} on {re.escape(socket.gethostname())}"
    since = r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.match(f"{where}: {who}, {since}, writes there; ", str(told.value))
    assert list(tmp_path.iterdir()) == []
    with locked(run):
        pass


@pytest.mark.parametrize(
    "command",
    [
        f"{TRAIN} --epochs 3 -s run",
        f"{TRAIN} --epochs 3 --resume -s run",
        f"{TRAIN} --epochs 3 --overwrite -s run",
        "import file.pt --out checkpoints/run",
    ],
)
def test_no_command_touches_a_run_that_is_being_written(command, box):
    with locked(box / "checkpoints/run"):
        before = sandbox.snapshot(box)
        assert_refused(call(command), "checkpoints/run: process", socket.gethostname(), "since")
        assert sandbox.snapshot(box) == before


def test_a_run_that_has_ended_leaves_no_lock(box):
    assert call(TRAIN, "--epochs 3 --resume --quiet -s run").code == 0
    assert not {LOCK, HOLDER} & set(os.listdir("checkpoints/run"))
    assert_refused(call(TRAIN, "--ic-path none -s other"), "none")
    assert os.listdir("checkpoints") == ["run"]


@pytest.mark.processes
def test_a_killed_writer_holds_nothing(tmp_path):
    with python(HOLD, tmp_path / "run") as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {first.pid} on"), locked(tmp_path / "run"):
            pass
        first.kill()
    assert first.returncode == -signal.SIGKILL
    with locked(tmp_path / "run"):
        about = json.loads((tmp_path / "run" / HOLDER).read_text())
        assert about["pid"] == os.getpid()


def holder_elsewhere(run, monkeypatch, beats):
    """A file system that locks for one machine only, on which another one has written."""
    run.mkdir()
    (run / HOLDER).touch()
    told = ({"host": "node7", "pid": 12, "since": 0, "beat": beat} for beat in beats)
    monkeypatch.setattr(lock, "_read", lambda path: next(told))
    monkeypatch.setattr(lock, "WATCH", 0.1)


def test_a_writer_on_another_machine_is_seen_to_live(tmp_path, monkeypatch):
    holder_elsewhere(tmp_path / "run", monkeypatch, itertools.chain([4, 4], itertools.repeat(5)))
    with pytest.raises(UserError, match="process 12 on node7, since"), locked(tmp_path / "run"):
        pass
    # What the other has written is still there.
    assert (tmp_path / "run" / HOLDER).exists()


def test_a_machine_that_has_died_holds_nothing(tmp_path, monkeypatch):
    holder_elsewhere(tmp_path / "run", monkeypatch, itertools.repeat(4))
    with locked(tmp_path / "run"):
        pass


def test_without_locks_of_the_file_system_the_beats_decide(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "WATCH", 20.0)
    mine = pytest.raises(UserError, match=f"process {os.getpid()}")
    with locked(tmp_path), mine, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_place_that_cannot_be_locked_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    refusal = pytest.raises(UserError, match=r"cannot be locked \(Permission denied\)")
    with refusal, locked(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


# --- readers ---------------------------------------------------------------------------------


def test_a_checkpoint_appears_when_it_is_sealed(box, monkeypatch):
    seen, seal = [], checkpoints.seal

    def watch(path):
        seen.append(folders.epochs_of(box / "checkpoints/run"))
        seal(path)

    monkeypatch.setattr(checkpoints, "seal", watch)
    assert call(TRAIN, "--epochs 4 --resume --quiet -s run").code == 0
    assert seen == [[0, 1], [0, 1, 2]]
    assert folders.epochs_of(box / "checkpoints/run") == [0, 1, 2, 3]


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_passed_over(box, monkeypatch):
    run, read = box / "checkpoints/run", checkpoints.read

    def prune_meanwhile(path):
        if path.name == "1":
            shutil.copytree(path, run / "2", dirs_exist_ok=True)
            folders.delete(path)
        return read(path)

    monkeypatch.setattr(checkpoints, "read", prune_meanwhile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.load(run).path == run / "2"
    shutil.copytree(run / "2", run / "1")
    with pytest.raises(UserError, match="was deleted"):
        checkpoints.load(run, 1)


def test_a_checkpoint_goes_in_one_step(box, monkeypatch):
    run = box / "checkpoints/run"
    seen, rmtree = [], shutil.rmtree

    def watch(path, **settings):
        seen.append((path.name, folders.epochs_of(run)))
        rmtree(path, **settings)

    monkeypatch.setattr(shutil, "rmtree", watch)
    folders.delete(run / "0")
    assert seen == [(".deleted-0", [1])]
    # A kill before the files had gone leaves them to the next writer.
    shutil.copytree(run / "1", run / ".deleted-0")
    folders.remove_unfinished(run)
    assert os.listdir(run).count(".deleted-0") == 0


# --- the cache of compiled programs ---------------------------------------------------------


def test_half_a_program_is_never_in_the_cache(tmp_path, monkeypatch):
    lru_cache = pytest.importorskip("jax._src.lru_cache")
    jax_setup.keep_programs_whole()
    cache = lru_cache.LRUCache(str(tmp_path), max_size=-1)
    write = Path.write_bytes

    def die_half_way(path, value):
        write(path, value[: len(value) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        cache.put("key", b"program")
    assert cache.get("key") is None
    monkeypatch.undo()
    cache.put("key", b"program")
    assert cache.get("key") == b"program"
    assert [each.name for each in tmp_path.iterdir()] == ["key-cache"]


# --- a race ----------------------------------------------------------------------------------

ROUNDS, EPOCHS = 20, 12
# With the compilation cache, which they share.
RACE = f"{TRAIN} --epochs {EPOCHS} --keep 3 --debug -s run".replace("--no-compilation-cache", "")
COMMAND = "from jaxstepper.cli import console; console()"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The last state of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = [sys.executable, "-c", COMMAND, *RACE.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, check=True, capture_output=True)
    return checkpoints.load(folder / "checkpoints/run", EPOCHS - 1).arrays


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("number", range(ROUNDS))
def test_of_two_that_race_one_trains_and_a_kill_loses_nothing(number, alone, tmp_path):
    draw = random.Random(number)
    pair = [python(COMMAND, *RACE.split()) for _ in range(2)]
    # One is killed: before it has said anything, at its first line, or after some epochs.
    victim, other = draw.sample(pair, 2)
    lines = draw.choice([0, 1, draw.randrange(2, EPOCHS)])
    refused = ""
    if lines == 0:
        with pytest.raises(subprocess.TimeoutExpired):
            victim.wait(draw.uniform(0, 1))
    elif "writes there" in (refused := victim.stderr.readline()):
        victim, other = other, victim  # it has lost the race: the one that trains is killed
        for _ in range(lines):
            victim.stderr.readline()
    else:
        for _ in range(lines - 1):
            victim.stderr.readline()
    victim.kill()
    outcomes = [(*each.communicate(), each.returncode) for each in pair]
    for process, (out, err, code) in zip(pair, outcomes, strict=True):
        assert "Traceback" not in err
        if code == 2:
            assert out == "" and re.fullmatch(
                ".* writes there; wait for its end.*\n", err or refused
            )
        else:
            assert code == (-signal.SIGKILL if process is victim else 0), err
    codes = sorted(code for *_, code in outcomes)
    print(f"round {number}: killed after {lines} lines, exit codes {codes}")
    run = Path("checkpoints/run")
    for path in folders.paths_of(run):
        checkpoints.read(path)  # raises if it is damaged
    resumed = python(COMMAND, *RACE.split(), "--resume")
    _, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert "damaged" not in err
    jax.tree.map(np.testing.assert_array_equal, checkpoints.load(run).arrays, alone)
    assert folders.epochs_of(run)[-1] == EPOCHS - 1
    lines = (run / folders.METRICS_FILE).read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(EPOCHS))
