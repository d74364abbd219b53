"""Progress bars: what a terminal shows, and what everything else does not."""

import io
import re
import sys
from dataclasses import replace

import pytest
from commandline import TINY, call
from rich.console import Console
from training.small_runs import PLAN, SEED, TABLES, started

from jaxstepper.commands import evaluate as evaluate_command
from jaxstepper.commands import shared_steps as simulate_command
from jaxstepper.commands import train as train_command
from jaxstepper.reporting import bars as progress
from jaxstepper.reporting.bars import Bars, open_bars, part_of
from jaxstepper.reporting.note import note
from jaxstepper.reporting.training_bars import TrainingBars
from jaxstepper.training.two_phase.run import run_two_phase_training

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Screen(io.StringIO):
    """A terminal that keeps what it was told."""

    def __init__(self, width=100):
        super().__init__()
        self.console = Console(file=self, force_terminal=True, width=width)

    def plain(self):
        """All that was ever shown, without colours and movements."""
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.getvalue())

    def rows(self):
        """What is on the screen."""
        rows, row = [""], 0
        for token in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if token == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif token.endswith("A"):
                row -= int(token[2:-1] or 1)
            elif token == "\x1b[2K":
                rows[row] = ""
            elif token[0] not in "\x1b\r":
                rows[row] += token
        return [row for row in rows if row.strip()]


@pytest.fixture
def screen(monkeypatch):
    """A wide terminal, for whoever opens bars."""
    screen = Screen(width=160)
    for module in (train_command, simulate_command, evaluate_command):
        monkeypatch.setattr(module, "open_bars", lambda *_: Bars(screen.console))
    return screen


def test_a_bar_shows_count_time_and_figures_and_leaves_nothing():
    screen = Screen()
    with Bars(screen.console) as bars:
        bars.show("epochs", 3, 12, "dt 1e-3")
        bars.show_share("rollout", 0.25)
        bars._progress.refresh()
        epochs, figures, rollout = screen.rows()
        assert re.match(r"epochs [━╺╸]+ 3/12 0:00:0\d left -:--:--", epochs)
        assert figures == "  dt 1e-3"
        assert re.match(r"rollout [━╺╸]+ 25% ", rollout)
        bars.hide("epochs")
        bars.hide("epochs")
        bars._progress.refresh()
        assert "3/12" not in "".join(screen.rows())
    assert screen.rows() == []
    assert screen.getvalue().rfind(SHOW) > screen.getvalue().rfind(HIDE)


def test_the_time_left_is_that_of_what_was_done_here(monkeypatch):
    now = [1000.0]
    screen = Screen()
    bars = Bars(screen.console)
    bars._progress.get_time = lambda: now[0]
    for done in (600, 610, 620):  # 10 a minute, and 600 before
        bars.show("epochs", done, 640)
        now[0] += 60
    bars._progress.refresh()
    with bars:
        bars._progress.refresh()
        assert "left 0:02:00" in screen.plain()


def test_a_cursor_is_there_whatever_ends_the_process():
    screen = Screen()
    with Bars(screen.console) as bars:
        bars.show("epochs", 0, 1)
        bars._progress.refresh()
        assert screen.getvalue().rfind(SHOW) > screen.getvalue().rfind(HIDE)


def test_lines_and_warnings_come_above_the_bars(capsys):
    screen = Screen()
    with Bars(screen.console) as bars:
        bars.show("epochs", 1, 2)
        note("a note of a run")
        print("a warning of a run", file=sys.stderr)
        print("to a file", flush=True)
        bars._progress.refresh()
        *lines, bar = screen.rows()
        assert bar.startswith("epochs")
        assert lines == ["a note of a run", "a warning of a run"]
    assert screen.rows() == lines
    # Standard output is no terminal here, and keeps what is its own.
    assert capsys.readouterr() == ("to a file\n", "")


def test_bars_are_for_terminals_alone(monkeypatch):
    assert not open_bars().are_shown
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert open_bars().are_shown
    assert not open_bars(quiet=True).are_shown
    monkeypatch.setenv("TERM", "dumb")
    assert not open_bars().are_shown
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "is_main", lambda: False)
    assert not open_bars().are_shown


def test_training_shows_its_epochs(screen, tmp_path):
    flags = f"{TINY} --num-orbits 1 --epochs 12 --debug --checkpoint-dir {tmp_path}"
    outcome = call(flags)
    assert outcome.code == 0
    assert re.findall(r"^Epoch (\d+)", outcome.out, re.MULTILINE) == ["0", "10", "11"]
    shown = screen.plain()
    assert "compiling" in shown and "12/12" in shown
    number = r"\d\.\de-\d\d"
    figures = rf"acceptance \d+%, retrain [\d.]+, energy error {number}, dt \d\.\d\de-\d\d to "
    assert re.search(figures, shown)
    # The lines of the start and of --debug stand above the bar, and stay when it goes.
    start = [line for line in screen.rows() if not line.startswith("[debug]")]
    assert start[0].startswith("device cpu") and len(start) <= 5
    debug = set(re.findall(r"^\[debug\] epoch (\d+)(.)", "\n".join(screen.rows()), re.MULTILINE))
    assert debug == {(str(epoch), after) for epoch in range(12) for after in ",:"}
    assert outcome.err == ""


def test_an_epoch_longer_than_a_device_call_has_a_bar_of_its_own(monkeypatch):
    monkeypatch.setattr("jaxstepper.training.two_phase.objective.TwoPhase.first_budget", 2)
    monkeypatch.setattr("jaxstepper.training.run.LARGEST_BUDGET", 2)
    shown = []

    class Told(Bars):
        def show(self, name, done, total, figures=""):
            shown.append((name, done, total, figures))

        def hide(self, name):
            shown.append((name, "gone"))

    plan = replace(PLAN, max_retrain_steps=100)
    bars = TrainingBars(Told(), plan, 0, 4)
    state = started(plan, TABLES, SEED)
    run_two_phase_training(plan, state, 4, on_epoch=bars.epoch, on_call=lambda s, _: bars.call(s))
    by_name = {}
    for name, *rest in shown:
        by_name.setdefault(name, []).append(rest)
    epochs = [done for done, *_ in by_name["epochs"]]
    assert epochs == sorted(epochs) and set(epochs) == {0, 1, 2, 3, 4}
    # The first call compiles; those after it in the first epoch do not.
    assert [figures for *_, figures in by_name["epochs"][:2]] == ["compiling", ""]
    retrained = [rest for rest in by_name["retraining"] if rest != ["gone"]]
    assert max(done for done, *_ in retrained) > 3
    assert all(total == 100 and "to be below" in figures for _, total, figures in retrained)
    replayed = [rest for rest in by_name["phase 2"] if rest != ["gone"]]
    assert all(total == plan.replay_steps for _, total, _ in replayed) and replayed
    assert by_name["retraining"][-1] == by_name["phase 2"][-1] == ["gone"]


@pytest.mark.parametrize("output", ["", "--output path.npz"])
def test_a_rollout_shows_its_share(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(Bars, "show_share", lambda _, *told: shown.append(told))
    flags = "simulate --no-compilation-cache --num-particles 3 --seed 0 --steps 1500"
    outcome = call(flags, output)
    assert len(outcome.reports()) == 1
    names, shares = zip(*shown, strict=True)
    assert set(names) == {"rollout"}
    # The first call takes one step.
    assert shares[:2] == pytest.approx((0, 1 / 1500)) and shares[-1] == 1
    assert list(shares) == sorted(shares)


def test_an_evaluation_shows_its_share(screen, tmp_path):
    flags = "--problems kepler-0.5 --rules free-fall --orbits 2 --factors 1 --out"
    assert call("evaluate --no-compilation-cache", flags, tmp_path / "out").code == 0
    shown = screen.plain()
    assert re.search(r"evaluation .* 50%", shown) and "100%" in shown
    assert "free-fall, symmetrized: kepler-0.5" in shown


def test_ctrl_c_leaves_a_clean_terminal(screen, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate_command, "roll_out", interrupt)
    outcome = call("simulate --no-compilation-cache --num-particles 3 --seed 0")
    assert (outcome.code, outcome.err) == (130, "jaxstepper simulate: interrupted\n")
    assert screen.rows() == []
    assert screen.getvalue().rfind(SHOW) > screen.getvalue().rfind(HIDE)


def test_parts_add_up():
    shares = []
    for index in range(2):
        part_of(shares.append, index, 2)(0.5)
    assert shares == [0.25, 0.75]
