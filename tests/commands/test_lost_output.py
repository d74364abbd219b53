"""Output that cannot be written: told once, while the work goes on."""

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from commandline import TINY

from jaxstepper.errors import UserError
from jaxstepper.reporting import note
from jaxstepper.reporting.wandb_run import WandbRun
from jaxstepper.runs import checkpoints
from jaxstepper.runs.metrics_file import MetricsFile

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
NO_SPACE = os.strerror(errno.ENOSPC)
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@needs_full
@pytest.mark.parametrize("buffering", [1, -1])
def test_lines_that_a_full_disk_does_not_take_are_told_of_once(buffering, capsys):
    with FULL.open("w", buffering=buffering) as stream:
        for _ in range(3):
            note.put("line", stream)
    told = f"standard output cannot be written ({NO_SPACE}): its lines are lost\n"
    assert capsys.readouterr() == ("", told)


@needs_full
def test_nothing_is_told_where_nothing_can_be_told(monkeypatch):
    with FULL.open("w") as out, FULL.open("w") as err:
        monkeypatch.setattr(sys, "stderr", err)
        note.put("line", out)
        note.note("line")
    note.put("line", None)
    note.put("line", out)  # closed


def test_a_reader_that_has_left_is_not_told_of(capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        for _ in range(3):
            note.put("line", stream)
    assert capsys.readouterr() == ("", "")


@needs_full
def test_a_result_that_cannot_be_written_is_an_error(monkeypatch):
    with FULL.open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(UserError, match=f"standard output .* \\({NO_SPACE}\\); the result"):
            note.result("line")


@needs_full
@pytest.mark.processes
def test_training_goes_on_and_saves_with_standard_output_on_a_full_disk(tmp_path):
    tiny = TINY.replace("--no-compilation-cache", "")
    train = f"{tiny} --num-orbits 1 --epochs 11 --checkpoint-interval 5 -s run"
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxstepper", *train.split()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("standard output cannot be written") == 1
    assert "Traceback" not in done.stderr
    assert checkpoints.load(tmp_path / "checkpoints/run").epoch == 10


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
@pytest.mark.parametrize(
    ("words", "code"), [("--version", 0), ("train --help", 0), ("train --epochs x", 2)]
)
def test_closed_streams_are_no_error(words, code):
    command = f"{sys.executable} -m jaxstepper {words} <&- >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", command], env=environment).returncode == code


class FullFile:
    """A file on a disk that takes half of what it is given."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def truncate(self, size):
        self.file.truncate(size)

    def seek(self, size):
        self.file.seek(size)

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, NO_SPACE)


def test_metrics_wait_for_a_disk_with_room(tmp_path, monkeypatch):
    path, plain = tmp_path / "metrics.jsonl", Path.open
    file = MetricsFile(path)
    file.epoch({"epoch": 0})
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(Path, "open", lambda *some: FullFile(plain(*some)))
        file.epoch({"epoch": 1})
        file.epoch({"epoch": 2})
    assert [str(each.message) for each in told] == [
        f"{path}: cannot be written ({NO_SPACE}); training goes on"
    ]
    file.epoch({"epoch": 3})
    file.epoch({"epoch": 4})
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [*range(5)]


class FullWandb:
    """A run of wandb that can keep nothing."""

    def __init__(self, folder):
        self.dir, self.summary, self.ended = str(folder), self, None

    def log(self, values):
        raise OSError(errno.ENOSPC, NO_SPACE)

    update = log_artifact = log

    def finish(self, exit_code):
        self.ended = exit_code


def test_wandb_on_a_full_disk_is_told_of_once(tmp_path, capsys, monkeypatch):
    fake = FullWandb(tmp_path)
    run = WandbRun(fake)
    for _ in range(2):
        run.log({"x": 1})
        run.summary({"x": 1})
    run.finish(1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and NO_SPACE in said and "the run goes on" in said
    assert fake.ended == 1
    # Its service does not say that a disk is full.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    WandbRun(fake).finish(0)
    assert f"the disk of {tmp_path} is full" in capsys.readouterr().err
