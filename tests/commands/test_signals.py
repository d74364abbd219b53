"""A stop that is asked for by a signal."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxstepper.commands.signals import NAMES, stop_on_signal
from jaxstepper.runs.recordings import read_recording


def wait_until(true):
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_asks_for_a_stop_and_says_so(name, capsys):
    number = getattr(signal, name)
    with stop_on_signal() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        wait_until(stopped)
    # The thread that watches has spoken before it ends, and the block waits for it.
    assert capsys.readouterr().err.startswith(f"{name}: stops and saves")


def test_handlers_and_the_wakeup_descriptor_come_back():
    numbers = [getattr(signal, name) for name in NAMES]
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ZeroDivisionError), stop_on_signal():
        assert [signal.getsignal(number) for number in numbers] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in numbers] == before
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert wakeup == -1


@pytest.mark.parametrize("too_soon", [True, False])
@pytest.mark.processes
def test_a_second_signal_ends_the_process_unless_it_comes_too_soon(too_soon):
    program = f"""
import os, signal, sys, time
from jaxstepper.commands import signals
signals.SECONDS_TO_ANOTHER = {60.0 if too_soon else 0.0}
with signals.stop_on_signal(lambda: print("at once", flush=True)) as stopped:
    os.kill(os.getpid(), signal.SIGTERM)
    while not stopped():
        time.sleep(0.005)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({0.3 if too_soon else 20})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == (0 if too_soon else 128 + signal.SIGTERM), run.stderr
    assert run.stdout == ("" if too_soon else "at once\n")


@pytest.mark.parametrize(
    ("name", "flags", "output"),
    [
        ("SIGTERM", "--controller free-fall", "a.npz"),
        ("SIGINT", "--individual --scheme hermite --controller aarseth", "a.h5"),
    ],
)
@pytest.mark.processes
def test_a_signal_leaves_a_rollout_that_can_be_gone_on_with(name, flags, output, tmp_path):
    # It signals itself at the end of the third device call.
    program = f"""
import os, signal
from jaxstepper import cli
from jaxstepper.reporting.bars import Bars
shares = []
def show_share(self, name, share, figures=""):
    shares.append(share)
    if len(shares) == 4:
        os.kill(os.getpid(), signal.{name})
Bars.show_share = show_share
cli.main("simulate", "-e 0.5 --duration 1e4 {flags}".split() +
    ["--output-every", "1e-2", "--output", {output!r}])
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert run.returncode == 128 + getattr(signal, name), run.stderr
    assert f"{output} holds the states so far; --restart {output} goes on with them" in run.stderr
    assert [each.name for each in tmp_path.iterdir()] == [output]
    found = read_recording(tmp_path / output)
    time = found.arrays["time"]
    assert len(time) > 3 and len(found.arrays["position"]) == len(time)
    assert found.going[0]["rollout/steps"] > 0
