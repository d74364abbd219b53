"""--debug: a line for each chosen attempt, and a training that is the same bit for bit."""

import re
import sys
from functools import partial

import numpy as np
from training.small_runs import PLAN, SEED, TABLES, assert_identical, saved, started

from jaxstepper.training.two_phase.run import run_two_phase_training

NUMBER = r"[\d.e+-]+"
ATTEMPT = re.compile(
    rf"\[debug\] epoch (\d+), step (\d+), attempt (\d+): dt ({NUMBER}), "
    rf"energy error ({NUMBER}), loss ({NUMBER}), (accepted|retrain)"
)
REPLAY = re.compile(
    rf"\[debug\] epoch (\d+), phase 2, iteration (\d+): ({NUMBER})% failing, "
    rf"energy error mean ({NUMBER}), max ({NUMBER})"
)
EPOCHS = 4


def train(tables, every=1, replay_every=1):
    """A run with --debug, its epochs, and its lines come on standard error."""
    told, looking = [], PLAN.look(every, replay_every)

    def look(state, used):
        said, more = looking(state, used)
        if said:
            print(f"[debug] {said}", file=sys.stderr)
        return more

    state = started(PLAN, tables, SEED)
    result = run_two_phase_training(PLAN, state, EPOCHS, on_epoch=told.append, look=look)
    return result.state, told


def without_times(metrics):
    return [{k: v for k, v in row.items() if k != "epoch_time"} for row in metrics]


def test_looking_in_changes_nothing(capsys):
    told = []
    expected = run_two_phase_training(
        PLAN, started(PLAN, TABLES, SEED), EPOCHS, on_epoch=told.append
    )
    expected = saved(expected.state)
    assert capsys.readouterr().err == ""
    for every, replay_every in ((1, 1), (3, 2), (100, 100)):
        state, metrics = train(TABLES, every, replay_every)
        assert_identical(state, expected)
        assert without_times(metrics) == without_times(told)
        assert capsys.readouterr().err != ""


def test_every_attempt_has_a_line_that_says_what_came_of_it(capsys):
    _, metrics = train(TABLES[:1])
    lines = [ATTEMPT.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    lines = [line.groups() for line in lines if line]
    assert any(line[-1] == "retrain" for line in lines)
    for row in metrics:
        mine = [line for line in lines if int(line[0]) == row["epoch"]]
        assert [int(line[2]) for line in mine] == list(range(1, len(mine) + 1))
        taken = [line for line in mine if line[-1] == "accepted"]
        assert [int(line[1]) for line in taken] == list(range(row["total_steps"]))
        retrained = row["mean_retrain_iterations"] * row["total_steps"]
        assert len(mine) - len(taken) == round(retrained)
        # Four digits are printed.
        close = partial(np.testing.assert_allclose, rtol=1e-3)
        dt, error = ([float(line[i]) for line in taken] for i in (3, 4))
        close([min(dt), max(dt)], [row["min_dt"], row["max_dt"]])
        close([min(error), max(error)], [row["min_energy_error"], row["max_energy_error"]])
        losses = [float(line[5]) for line in mine if line[-1] == "retrain"]
        close(max(losses, default=0), row["max_retrain_loss"])


def test_iterations_of_phase_2_have_lines(capsys):
    train(TABLES)
    every_one = [REPLAY.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    every_one = [line.groups() for line in every_one if line]
    assert len(every_one) > 2
    # An iteration that passes ends its epoch, whose own line tells of it.
    assert all(float(failing) > 0 for _, _, failing, *_ in every_one)
    assert all(float(mean) <= float(largest) for *_, mean, largest in every_one)
    train(TABLES, every=100, replay_every=2)
    some = [REPLAY.fullmatch(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.groups() for line in some if line] == [
        line for line in every_one if int(line[1]) % 2 == 0
    ]


def test_attempts_are_chosen_by_their_number(capsys):
    train(TABLES[:1])
    every_one = [line for line in capsys.readouterr().err.splitlines() if ATTEMPT.match(line)]
    train(TABLES[:1], every=2, replay_every=100)
    some = [line for line in capsys.readouterr().err.splitlines() if ATTEMPT.match(line)]
    chosen = [line for line in every_one if int(ATTEMPT.match(line)[3]) % 2]
    assert some == chosen and len(chosen) < len(every_one)


def test_several_systems_are_one_line(capsys):
    train(TABLES)
    (first, *_) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(
        rf"\[debug\] epoch 0, step 0, attempt 1: dt ({NUMBER}) to ({NUMBER}), energy error "
        rf"({NUMBER}) to ({NUMBER}), mean loss {NUMBER}, (\d+) accepted, (\d+) retrain",
        first,
    )
    smallest, largest, least, most, accepted, retrained = map(float, found.groups())
    assert smallest <= largest and least <= most
    assert accepted + retrained == len(TABLES)
