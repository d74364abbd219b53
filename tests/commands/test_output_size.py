"""What a recorded rollout takes is said and checked before it starts."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import assert_refused, call

import jaxstepper as js
from jaxstepper.commands.output_size import check_size, most_steps
from jaxstepper.errors import UserError
from jaxstepper.machine import memory
from jaxstepper.settings.config import Config


def config(tmp_path, **changes):
    return Config(output=str(tmp_path / "new" / "x.npz"), dtype="float64", **changes)


def machine(monkeypatch, ram, disk):
    monkeypatch.setattr(memory, "physical_memory", lambda: ram)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))


@pytest.mark.parametrize(
    "flags", ["--num-particles 3 --output x.npz", "--output x.npz --num-particles 100 --dim 3"]
)
def test_two_thousand_million_steps_are_refused_at_once(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    machine(monkeypatch, 1e12, 1e11)
    outcome = call(
        "simulate --no-compilation-cache --seed 1 --steps 2000000000 --dtype float64", flags
    )
    assert_refused(outcome, "2,000,000,000 states", "are free in")
    assert not list(tmp_path.glob("*.npz"))


def test_the_size_is_that_of_the_file(tmp_path, monkeypatch):
    table = js.kepler_pair(0.5)
    start = js.from_table(table, js.Gravity().acceleration)
    _, path = js.record(js.fixed(0.01), js.Gravity(), start, js.Limits(steps=1000))
    size = sum(each.nbytes for each in path)
    narrow = Config(output=str(tmp_path / "x.h5"), dtype=str(path.time.dtype))
    for disk, fits in ((0.99 * size, False), (1.01 * size, True)):
        machine(monkeypatch, np.inf, disk)
        if fits:
            check_size(narrow, js.fixed(0.01), [js.Limits(steps=1000)])
        else:
            with pytest.raises(UserError, match="are free in"):
                check_size(narrow, js.fixed(0.01), [js.Limits(steps=1000)])


def test_what_is_large_is_said_first(tmp_path, monkeypatch, capsys):
    machine(monkeypatch, np.inf, np.inf)
    # 11 numbers of 8 bytes a step, in two rollouts.
    limits = [js.Limits(steps=10**9)] * 2
    check_size(config(tmp_path), js.FreeFall(0.1), limits)
    assert "1,000,000,000 states, 176.0 GB" in capsys.readouterr().err
    check_size(config(tmp_path), js.FreeFall(0.1), [js.Limits(steps=1000)])
    assert capsys.readouterr().err == ""


def test_memory_must_hold_a_movie_twice(tmp_path, monkeypatch):
    machine(monkeypatch, 1.9 * 88e6, np.inf)
    check_size(config(tmp_path), js.FreeFall(0.1), [js.Limits(steps=10**6)])
    with pytest.raises(UserError, match=r"--output .*1,000,000 states.*of memory"):
        check_size(config(tmp_path, movie=True), js.FreeFall(0.1), [js.Limits(steps=10**6)])


def test_an_archive_is_on_the_disk_twice_while_it_is_made(tmp_path, monkeypatch):
    machine(monkeypatch, np.inf, 1.9 * 88e6)
    with pytest.raises(UserError, match=r"are free in"):
        check_size(config(tmp_path), js.FreeFall(0.1), [js.Limits(steps=10**6)])


def test_states_at_given_times_are_counted(tmp_path, monkeypatch, capsys):
    machine(monkeypatch, np.inf, np.inf)
    # From 5 to 5e8 + 5, one in a quarter of a unit of time, 11 numbers of 8 bytes each.
    every = config(tmp_path, output_every=0.25, start_time=5.0)
    check_size(every, js.FreeFall(0.1), [js.Limits(time=5e8 + 5)])
    assert "2,000,000,001 states, 176.0 GB" in capsys.readouterr().err


def test_steps_that_are_known():
    assert most_steps(js.fixed(0.25), js.Limits(time=10.0)) == 40
    assert most_steps(js.fixed(0.25), js.Limits(time=10.0, steps=7)) == 7
    assert most_steps(js.FreeFall(0.25), js.Limits(time=10.0)) == 0
    assert most_steps(js.FreeFall(0.25), js.Limits(steps=9)) == 9


def test_nothing_is_asked_of_a_rollout_that_is_not_kept(monkeypatch):
    machine(monkeypatch, 0.0, 0.0)
    check_size(Config(), js.FreeFall(0.1), [js.Limits(steps=2_000_000_000)])
