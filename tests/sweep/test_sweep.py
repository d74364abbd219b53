"""The command `sweep`: trials, their numbers, going on, and the run that is kept."""

import json
import math
import shlex
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
import sandbox
import torch
from commandline import assert_refused, call

from jaxstepper.commands import sweep as sweep_command
from jaxstepper.errors import UserError
from jaxstepper.runs import checkpoints
from jaxstepper.runs.models import load_model
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.stored import to_dict
from jaxstepper.settings.toml_file import read_sweep
from jaxstepper.sweep.kept_runs import STORAGE, claim
from jaxstepper.sweep.seeds import SeedsResult, SeedStates
from jaxstepper.sweep.study import import_optuna
from jaxstepper.sweep.trial import Measure, TrialFailed, TrialPruned, _Watch
from jaxstepper.training.run import Member
from jaxstepper.training.two_phase.objective import TwoPhase
from jaxstepper.training.windows.objective import Windows

ROOT = Path(__file__).parents[2]
FILE = """
num_particles = 3
save_name = "small"
compilation_cache = false
[train]
epochs = 3
dropout = 0.0
steps_per_epoch = 2
lr = 0.5
[sweep]
lr = {low = 1e-4, high = 1e-3, log = true}
hidden_dims = [[8, 8], [8]]
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(FILE)


def sweep(*flags):
    return call("sweep --config my.toml", *flags)


def study():
    return optuna.load_study(study_name="small", storage=storage())


def storage():
    return optuna.storages.get_storage("sqlite:///checkpoints/small/study.db")


def close(loaded):
    loaded._storage.remove_session()
    loaded._storage._backend.engine.dispose()


# --- the whole -------------------------------------------------------------------------------


def test_a_sweep_goes_on_and_keeps_its_best_run(tmp_path):
    first = sweep("--trials 1 --seeds 2")
    assert first.code == 0, first.err
    assert first.warned == ""
    (report,) = first.reports()
    assert (report["complete"], report["pruned"], report["failed"]) == (1, 0, 0)
    assert report["value"] == max(report["values"])  # of two in the middle, the worse
    assert report["values"][report["seed"]] == report["value"]

    # A process that was killed leaves a trial that seems to run, and is not heard of any more.
    loaded = study()
    killed = loaded.ask()
    killed.suggest_float("lr", 1e-4, 1e-3, log=True)
    optuna.storages.RDBStorage.record_heartbeat(loaded._storage._backend, killed._trial_id)
    close(loaded)
    with sqlite3.connect("checkpoints/small/study.db") as database:
        database.execute("update trial_heartbeats set heartbeat = '2020-01-01 00:00:00'")
    database.close()

    second = sweep("--trials 2 --seeds 2")
    assert second.code == 0, second.err
    (report,) = second.reports()
    assert (report["complete"], report["pruned"], report["failed"]) == (2, 0, 0)
    loaded = study()
    states = [trial.state.name for trial in loaded.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert loaded.trials[2].params["lr"] == loaded.trials[1].params["lr"]  # it is run again
    assert loaded.best_value == report["value"]
    close(loaded)

    assert sweep("--trials 2 --seeds 2").reports() == [report]  # there is nothing left to do

    run = Path(report["run"])
    assert run.name == f"trial-{report['trial']}"
    assert sorted(each.name for each in run.parent.iterdir()) == [".storage", "study.db", run.name]
    checkpoint = checkpoints.load(run)
    assert checkpoint.config["seed"] == report["seed"]
    assert checkpoint.config["hidden_dims"] == report["params"]["hidden_dims"]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    costs = [TwoPhase.value("evaluations_per_time", json.loads(line)) for line in lines]
    assert report["value"] == pytest.approx(sum(costs) / 3)

    file = torch.load(report["export"], weights_only=True)
    assert file["epoch"] == 2
    widths = report["params"]["hidden_dims"]
    assert file["model_state_dict"]["model.0.weight"].shape[0] == widths[0]
    assert load_model(str(run), "").config == checkpoint.config

    words = shlex.split(report["command"])
    assert words[:2] == ["jaxstepper", "train"]
    again = to_dict(parse("train", words[2:]).config)
    named = {"save_name", "checkpoint_dir"}
    assert {n: v for n, v in again.items() if n not in named} == {
        n: v for n, v in checkpoint.config.items() if n not in named
    }

    (tmp_path / "my.toml").write_text(FILE.replace("1e-4", "2e-4"))
    before = sandbox.snapshot(tmp_path)
    refused = sweep("--trials 3 --seeds 2")
    assert_refused(refused, "was begun with another table [sweep]: lr = ")
    (tmp_path / "my.toml").write_text(FILE.replace("epochs = 3", "epochs = 4"))
    assert_refused(sweep("--trials 3 --seeds 2"), "another config: epochs = 4 (was 3)")
    (tmp_path / "my.toml").write_text(FILE)
    assert_refused(sweep("--trials 3"), "another measure: seeds = 1 (was 2)")
    (tmp_path / "my.toml").write_text(FILE.replace("1e-4", "2e-4"))
    assert sandbox.snapshot(tmp_path) == before


def test_trials_that_fail_are_kept_with_their_reason(tmp_path, monkeypatch):
    stuck = SeedsResult([Member(0, [], "stuck")], SeedStates([], None))
    monkeypatch.setattr("jaxstepper.sweep.trial.start_run", lambda *_, **__: None)
    monkeypatch.setattr("jaxstepper.sweep.trial.train_seeds", lambda *_, **__: stuck)
    outcome = sweep("--trials 1")
    assert outcome.code == 1
    assert outcome.out == ""
    assert "trial 0: failed, 1 of 1 seed stuck" in outcome.err
    assert "no trial is complete (0 complete, 0 pruned, 1 failed)" in outcome.err
    loaded = study()
    assert loaded.trials[0].user_attrs["why"] == "1 of 1 seed stuck"
    close(loaded)
    left = {each.name for each in (tmp_path / "checkpoints/small").iterdir()}
    assert left == {".storage", "study.db"}


def test_a_trial_that_is_pruned_has_ended(monkeypatch):
    def prune(asked, trial, *_):
        raise TrialPruned("epoch 1")

    monkeypatch.setattr(sweep_command, "run_trial", prune)
    outcome = sweep("--trials 2")
    assert "trial 1: pruned after epoch 1" in outcome.err
    assert "no trial is complete (0 complete, 2 pruned, 0 failed)" in outcome.err


def test_a_stop_leaves_the_trial_to_be_run_again(monkeypatch):
    def stop(*_):
        raise sweep_command.Interrupted

    def ask_and_stop(asked, trial, *_):
        chosen = [choice.suggest(trial) for choice in asked.choices]
        return stop(*chosen)

    monkeypatch.setattr(sweep_command, "run_trial", ask_and_stop)
    outcome = sweep("--trials 2")
    assert "interrupted; the same command goes on" in outcome.err
    assert "no trial is complete (0 complete, 0 pruned, 0 failed)" in outcome.err
    loaded = study()
    assert [trial.state.name for trial in loaded.trials] == ["FAIL", "WAITING"]
    close(loaded)


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lr = {low", "lrr = {low", "unknown key; did you mean lr?"),
        ('save_name = "small"', "", "--save-name: a sweep needs a name"),
        ("num_particles = 3", "wandb = true", "wandb: a sweep does not take it"),
        ("num_particles = 3", 'ic_path = "none.txt"', "none.txt: cannot be read"),
        ("num_particles = 3", 'model_path = "none"', "none: no checkpoint there"),
        ("hidden_dims =", "momentum = [0.5]\n#", "momentum = 0.5: must be left out with optimizer"),
        ("hidden_dims =", "E_lower = {low = 1e-6, high = 1e-2}\n#", "must be <= E_upper"),
        (
            "hidden_dims =",
            "imitation_epochs = [0, 3]\n#",
            "leaves none of the 3 epochs to compare trials by",
        ),
    ],
)
def test_a_file_that_cannot_be_swept_is_refused_before_anything_is_written(
    old, new, words, tmp_path
):
    text = FILE.replace(old, new)
    if "imitation" in new:
        text = text.replace("dropout = 0.0", 'objective = "window"')
    (tmp_path / "my.toml").write_text(text)
    before = sandbox.snapshot(tmp_path)
    assert_refused(sweep(), words)
    assert sandbox.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--trials 0", "--trials 0: must be an integer >= 1"),
        ("--seeds none", "must be an integer >= 1"),
        ("--minimise mean_energy_eror", "did you mean mean_energy_error?"),
        ("--minimise mean_dt --maximise mean_dt", "not allowed with argument"),
        ("--save-name ../up", "--save-name ../up: must be a relative name"),
        ("--storage nonsense", "--storage nonsense: cannot be opened"),
        ("--storage sqlite:////none/there.db", "cannot be opened"),
        ("--config none.toml", "cannot read this file"),
    ],
)
def test_flags_are_refused_before_anything_is_written(flags, words, tmp_path):
    before = sandbox.snapshot(tmp_path)
    assert_refused(sweep(flags), words)
    assert sandbox.snapshot(tmp_path) == before


def test_two_databases_do_not_share_a_folder(tmp_path):
    folder = tmp_path / "small"
    claim(folder, None)
    claim(folder, None)
    (folder / STORAGE).write_text("")  # another process is about to write it
    claim(folder, "sqlite:///other.db")
    (folder / STORAGE).unlink()
    claim(folder, "postgresql://user:secret@host/db")
    assert "secret" not in (folder / STORAGE).read_text()
    for other in (None, "sqlite:///other.db"):
        with pytest.raises(UserError, match="another --storage"):
            claim(folder, other)


def test_one_choice_may_need_another(tmp_path):
    band = "E_lower = {low = 1e-6, high = 1e-3}\nE_upper = {low = 1e-5, high = 1e-2}\n#"
    (tmp_path / "my.toml").write_text(FILE.replace("hidden_dims =", band))
    asked, _ = sweep_command._read(sweep_command._parser().parse_args(["--config", "my.toml"]))
    sweep_command.check(asked)
    # Where a momentum is always chosen, adam never can be.
    never = 'momentum = [0.5]\noptimizer = ["sgd", "adam"]\n#'
    (tmp_path / "my.toml").write_text(FILE.replace("hidden_dims =", never))
    assert_refused(sweep(), "momentum = 0.5: must be left out with optimizer adam")


def test_train_takes_the_file_and_leaves_the_table(tmp_path):
    request = parse("train", ["--config", "my.toml"])
    assert request.config.lr == 0.5
    assert not request.sets("hidden_dims")


# --- the number of a trial -------------------------------------------------------------------


def run(values, stopped=""):
    return Member(len(values), [{"loss": value} for value in values], stopped)


def test_a_seed_counts_by_the_mean_of_its_last_epochs():
    measure = Measure(Windows, "loss", last=2)
    assert measure.of_seed(run([9, 1, 3]), 3) == 2
    assert measure.of_seed(run([9, 1, 3]), 2) == 5
    assert measure.of_seed(run([9, 1]), 3) == 5  # every orbit had ended
    assert measure.of_seed(run([9, 1, 3]), 2, skip=1) == 1
    assert measure.of_seed(run([9, 1, 3], "stuck"), 3) == math.inf
    assert measure.of_seed(run([1, math.nan]), 2) == math.inf
    assert Measure(Windows, "loss", maximise=True).of_seed(run([], "not finite"), 1) == -math.inf


def test_a_trial_counts_by_its_median_seed():
    assert Measure(Windows, "loss").middle([3.0, 1.0, 2.0]) == 2
    assert Measure(Windows, "loss").middle([1.0, math.inf]) == 1
    assert Measure(Windows, "loss").middle([1.0, 2.0, 3.0, math.inf]) == 2
    assert Measure(Windows, "loss", maximise=True).middle([3.0, 1.0]) == 1


def test_the_default_number_of_two_phase_training_is_its_force_evaluations_for_a_unit_of_time():
    # 4 steps of 10 leapfrog steps with dt 0.01, 3 attempts each.
    row = {"mean_retrain_iterations": 2.0, "mean_dt": 0.01, "total_steps": 4}
    evaluations, time = 4 * 3 * 10, 4 * 10 * 0.01
    assert TwoPhase.value("evaluations_per_time", row) == pytest.approx(evaluations / time)


class Strict:
    """Notes what it is told, and prunes from a step on."""

    def __init__(self, limit):
        self.reports, self.limit = {}, limit

    def report(self, value, step):
        assert step not in self.reports
        self.reports[step] = value

    def should_prune(self):
        return max(self.reports, default=-1) >= self.limit


def watch(limit, *flags):
    config = parse("train", ["--epochs", "6", *flags]).config
    return _Watch(Measure(Windows, "loss", last=2), Strict(limit), config)


def test_epochs_are_reported_when_all_seeds_have_completed_them():
    watching = watch(3)
    seeds = [run([1, 3, 5]), run([2]), run([], "stuck")]
    watching.look(seeds)
    assert watching.trial.reports == {0: 2}
    seeds[1].metrics += [{"loss": 4}, {"loss": 6}]
    watching.look(seeds)
    assert watching.trial.reports == {0: 2, 1: 3, 2: 5}
    for seed in seeds[:2]:
        seed.metrics += [{"loss": 0}]
    with pytest.raises(TrialPruned, match="epoch 3"):
        watching.look(seeds)


def test_a_trial_ends_when_half_of_its_seeds_have_failed():
    with pytest.raises(TrialFailed, match="1 of 2 seeds stuck"):
        watch(9).look([run([1]), run([1], "stuck")])


def test_epochs_that_imitate_are_not_reported():
    watching = watch(9, "--objective", "window", "--imitation-epochs", "2")
    watching.look([run([1, 1, 7])])
    assert watching.trial.reports == {2: 7}


def test_the_example_can_be_swept():
    path = str(ROOT / "scripts/configs/sweep.toml")
    assert read_sweep(path)
    parse("train", ["--config", path])


def test_without_optuna_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        UserError, match=r"^a sweep needs Optuna: pip install 'jaxstepper\[sweep\]'$"
    ):
        import_optuna()
