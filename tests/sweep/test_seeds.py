"""Seeds that are trained at once come to what each comes to alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.runs.start import fresh_tables, is_fresh, start_run
from jaxstepper.settings.command_line import parse
from jaxstepper.sweep.seeds import train_seeds
from jaxstepper.training.run import run

TINY = "--hidden-dims 8 8 --no-compilation-cache --lr 0.01"
# Steps that are often refused once before they are accepted, and a phase 2 that trains.
STRICT = "--steps-per-epoch 2 --energy-threshold 5e-6 --E_upper 5e-6 --num-particles 3 --dropout 0"
WINDOW = "--objective window --feature-type orbital --tolerance-max 0.1 --window-steps 32"


def starts(flags, seeds):
    request = parse("train", f"{TINY} {flags}".split())
    return [start_run(request.replace(seed=seed), share=False) for seed in seeds], request.sources


def alone(start, given):
    """The result and the metrics of a run of one seed, as `train` has it."""
    config, metrics = start.config, []

    def on_pause(state, last):
        done = last["epoch"] + 1
        if is_fresh(config, start.objective, done):
            tables = fresh_tables(config, given, start.tables, done)
            state = start.objective.restart(state, tables)
        return state

    result = run(
        start.objective,
        start.state,
        config.epochs,
        pause_after=lambda epoch: is_fresh(config, start.objective, epoch + 1),
        on_epoch=metrics.append,
        on_pause=on_pause,
    )
    return result, metrics


@pytest.mark.parametrize(
    ("flags", "at_once", "stopped", "compared"),
    [
        # Seed 1 needs more than three retrain iterations on a step; seed 0 does not.
        (f"{STRICT} --epochs 4 --max-retrain-steps 3", True, ["", "stuck"], [0, 1]),
        # Bodies, units of the inputs and new draws of each seed's own.
        pytest.param(
            "--multi-orbit --num-orbits 3 --fresh-every 2 --epochs 4 --normalize-inputs "
            "--steps-per-epoch 2 --draw random",
            False,
            ["", ""],
            [1],
            marks=pytest.mark.slow,
        ),
        (
            f"{WINDOW} --window-iterations 2 --window-batch 3 -e 0.5 --epochs 3",
            None,
            ["", ""],
            [0, 1],
        ),
    ],
    ids=["gate, at once", "new draws, in turn", "window, at once"],
)
def test_each_seed_comes_to_what_it_comes_to_alone(flags, at_once, stopped, compared):
    runs, given = starts(flags, [0, 1])
    result = train_seeds(runs, given, at_once=at_once)
    assert [run.stopped for run in result.runs] == stopped
    for k, start in zip(compared, starts(flags, compared)[0], strict=True):
        lone, metrics = alone(start, given)
        mine = result.states.member(k)
        assert result.runs[k].stopped == lone.stopped
        assert int(mine.epoch) == int(lone.state.epoch) == len(metrics)
        assert np.array_equal(mine.key, lone.state.key)
        params = mine.variables["params"], lone.state.variables["params"]
        for a, b in zip(*map(jax.tree.leaves, params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
        for a, b in zip(result.runs[k].metrics, metrics, strict=True):
            assert a.keys() == b.keys()
            for name in a.keys() - {"epoch_time"}:
                assert a[name] == pytest.approx(b[name], rel=1e-6), name


def test_what_is_asked_before_every_device_call_stops_them():
    runs, given = starts(f"{STRICT} --epochs 30", [0, 1])
    result = train_seeds(runs, given, interrupted=lambda: True)
    assert [run.stopped for run in result.runs] == ["interrupted"] * 2
    assert all(run.metrics == [] for run in result.runs)


def test_seeds_of_different_programs_are_refused():
    runs, _ = starts(f"{STRICT} --epochs 1", [0])
    other = replace(runs[0], objective=replace(runs[0].objective, steps_per_epoch=3))
    with pytest.raises(UserError, match="bound pairs"):
        train_seeds([runs[0], other])
