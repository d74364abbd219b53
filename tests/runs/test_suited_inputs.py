"""The inputs of a network that nobody chose suit the objective and the bodies."""

import numpy as np
import pytest

from jaxstepper.commands.train_job import Job
from jaxstepper.commands.train_report import announce
from jaxstepper.errors import UserError
from jaxstepper.physics.initial_conditions import kepler_table, random_batch
from jaxstepper.runs.resume import what_was_set
from jaxstepper.runs.start import complete, start_run
from jaxstepper.settings.command_line import parse

WINDOW = "--objective window --seed 1"


def completed(flags, bodies=None):
    """The config of a new run before its first epoch."""
    return complete(parse("train", flags.split()), bodies, configure=False)[0]


@pytest.mark.parametrize(
    ("flags", "inputs"),
    [
        (WINDOW, "orbital"),
        (f"{WINDOW} --multi-orbit --draw apocentre", "orbital"),
        (f"{WINDOW} --num-particles 3", "encounters"),
        (f"{WINDOW} --multi-orbit --draw plummer --num-particles 8", "encounters"),
        (f"{WINDOW} --feature-type delta_mag", "delta_mag"),
        (f"{WINDOW} --num-particles 3 --feature-type orbital", "orbital"),
        # The scales of the torch system's inputs, and their history, go with those inputs alone.
        (f"{WINDOW} --history-len 2", "delta_mag"),
        (f"{WINDOW} --normalize-inputs", "delta_mag"),
        (f"{WINDOW} --multi-orbit --draw apocentre --model-path kepler_torch", "basic"),
        ("--seed 1", "delta_mag"),
        ("--objective evolution --seed 1", "derivatives"),
    ],
)
def test_they_follow_from_objective_and_bodies_unless_they_are_set(flags, inputs):
    assert completed(flags).feature_type == inputs


EVOLUTION = "--objective evolution"


@pytest.mark.parametrize(
    ("flags", "scheme"),
    [
        ("", "hermite"),
        ("--feature-type pairs", "hermite"),
        ("--feature-type shares", "chin"),
        ("--feature-type shares --scheme hermite", "hermite"),
        ("--feature-type shares --scheme leapfrog", "leapfrog"),
    ],
)
def test_the_scheme_of_an_evolution_follows_from_its_inputs_unless_it_is_set(flags, scheme):
    assert completed(f"{EVOLUTION} --seed 1 {flags}").scheme == scheme


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--feature-type orbital", "must be derivatives or pairs or shares with objective evo"),
        ("--feature-type pairs --scheme chin", "must be hermite with .* inputs pairs"),
        ("--scheme bm4", "must be hermite with .* inputs derivatives"),
        ("--feature-type shares --scheme logarithmic", "scheme"),
    ],
)
def test_an_evolution_refuses_what_it_cannot_train(flags, said):
    with pytest.raises(UserError, match=said):
        completed(f"{EVOLUTION} {flags}")


def test_the_bodies_of_a_file_count_as_those_of_a_draw(tmp_path):
    for table, inputs in (
        (kepler_table(0.5, 1.0, (1.0, 1.0), 2), "orbital"),
        (random_batch(0, 1, 3, 2, 1.0, 0.1, 1.0)[0], "encounters"),
    ):
        np.save(tmp_path / "bodies.npy", table)
        assert completed(f"{WINDOW} --ic-path {tmp_path / 'bodies.npy'}").feature_type == inputs


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--objective window",
            "chosen to suit objective window: --lr 0.0025, --weight-decay 0.0, --hidden-dims "
            "32 32, --feature-type orbital",
        ),
        (
            "--objective window --lr 1e-4 --hidden-dims 8",
            "chosen to suit objective window: --weight-decay 0.0, --feature-type orbital",
        ),
        (
            "--objective window --model-path kepler",
            "chosen to suit objective window: --lr 0.0025, --weight-decay 0.0",
        ),
        ("", None),
    ],
)
def test_a_new_run_says_what_was_chosen_for_it(flags, said, capsys):
    request = parse("train", f"{flags} --seed 1".split())
    start = start_run(request, share=False, configure=False)
    announce(
        Job(start.config, what_was_set(request), start.tables, start.objective, start.state),
        1.0,
        "",
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "suit" in line]
    assert lines == ([said] if said else [])
