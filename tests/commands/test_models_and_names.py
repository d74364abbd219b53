"""What comes with the package is found by name in any folder, and says what it is good for."""

import json
import re

import pytest
from commandline import assert_refused, call

from jaxstepper import cli
from jaxstepper.runs.folders import SHIPPED, is_shipped, locate, shipped
from jaxstepper.settings import toml_file
from jaxstepper.settings.command_line import parse


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --- models ----------------------------------------------------------------------------------


def test_models_lists_all_with_their_domains_and_costs():
    outcome = call("models")
    assert (outcome.code, outcome.err) == (0, "")
    for name in shipped():
        assert re.search(rf"^{name}\n  trained on .+", outcome.out, re.MULTILINE)
    assert "eccentricity 0 to 0.999" in outcome.out
    told = {each["name"]: each for each in map(json.loads, call("models --json").out.splitlines())}
    assert sorted(told) == shipped()
    assert told["kepler"]["domain"]["eccentricity"] == [0, 0.999]
    # Five inputs, two layers of 32, two outputs.
    assert told["kepler"]["network_weights"] == 5 * 32 + 32 * 32 + 32 * 2
    forces = {name: each["force_evaluations_per_step"] for name, each in told.items()}
    assert (forces["kepler"], forces["kepler_chin"], forces["kepler_bm4"]) == (1, 3, 6)


@pytest.mark.parametrize("name", ["kepler", "kepler/349", "checkpoints/kepler"])
def test_a_shipped_model_is_found_by_name(name):
    run, epoch = locate(name, "checkpoints")
    assert run == SHIPPED / "kepler" and is_shipped(run)
    assert epoch == ("349" if "/" in name and "checkpoints" not in name else None)


def test_a_run_of_the_users_own_comes_first(tmp_path):
    (tmp_path / "checkpoints" / "kepler" / "3").mkdir(parents=True)
    for name in ("kepler", "checkpoints/kepler"):
        assert not is_shipped(locate(name, "checkpoints")[0])
    assert "runs in checkpoints: kepler" in call("models").out


def test_a_model_that_is_not_there_says_where_it_looked_and_what_there_is(tmp_path):
    (tmp_path / "runs" / "mine" / "0").mkdir(parents=True)
    outcome = call("simulate --model-path keplr --checkpoint-dir runs")
    words = ("keplr: no checkpoint there", "runs/keplr", "mean kepler?", "runs holds mine")
    assert_refused(outcome, *words, ", ".join(shipped()))


def test_nothing_is_written_beside_a_shipped_model(tmp_path):
    assert call("plot kepler").out == "kepler-training.png\n"
    assert call("export kepler_torch").out == "model_epoch_0299.pt\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "kepler-training.png",
        "model_epoch_0299.pt",
    ]


PAIR = "simulate --no-compilation-cache --symmetrize --model-path kepler -a 2 --Nperiod 1"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-e 0.5", ""),
        ("-e 0.5 --tolerance 0.1", "tolerance 0.1, not 1e-06 to 0.01"),
        # Steps that are shorter by ten have errors that are smaller by a hundred.
        ("-e 0.5 --tolerance 0.1 --eta 0.1", ""),
        ("-e 0.9999 --duration 0.01", "eccentricity 0.9999, not 0 to 0.999"),
        ("-e 0.5 --softening 1 --duration 1", "softening / virial radius"),
        ("-e 0.9999 --controller free-fall --duration 0.01", ""),
    ],
)
def test_use_outside_of_the_domain_is_told_in_a_line(flags, said):
    outcome = call(PAIR, flags)
    lines = [line for line in outcome.err.splitlines() if "outside" in line]
    assert len(lines) == bool(said)
    assert all(line.startswith("warning: ") and "kepler" in line for line in lines)
    assert said in outcome.err


# --- configurations --------------------------------------------------------------------------


def test_a_shipped_configuration_is_found_by_name(tmp_path):
    assert "quick_start" in toml_file.shipped()
    for name in ("quick_start", "quick_start.toml"):
        assert parse("train", ["--config", name]).config.save_name == "quick_start"
    (tmp_path / "quick_start.toml").write_text('save_name = "mine"\n')
    assert parse("train", ["--config", "quick_start.toml"]).config.save_name == "mine"
    assert parse("train", ["--config", "quick_start"]).config.save_name == "quick_start"


def test_a_configuration_that_is_not_there_says_what_there_is():
    words = ("quick_strt: cannot read", "mean quick_start?", ", ".join(toml_file.shipped()))
    assert_refused(call("train --config quick_strt"), *words)


# --- help and defaults -----------------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_examples_quiet_and_all_of_its_help(command):
    outcome = call(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(re.findall(rf"^  jaxstepper {command} ", outcome.out, re.MULTILINE)) >= 1
    assert len(re.findall(r"^  jaxstepper ", outcome.out, re.MULTILINE)) == 3
    assert "--quiet" in outcome.out
    whole = call(command, "--help-all")
    assert whole.code == 0 and len(whole.out) >= len(outcome.out)


def test_evaluate_may_be_quiet():
    few = "--rules free-fall --factors 1 --orbits 0.1 --no-time --no-compilation-cache"
    outcome = call("evaluate --problems kepler-0.1 --quiet", few)
    assert (outcome.code, outcome.err) == (0, "")
    assert "runs.csv" in outcome.out


def test_evaluate_warns_outside_of_a_models_domain():
    few = "--rules free-fall --factors 1 --orbits 0.1 --no-time --no-compilation-cache"
    outcome = call("evaluate --problems kepler-0.9999 kepler-0.1 --quiet --model kepler", few)
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    words = ("warning: ", "kepler-0.9999", "eccentricity 0.9999")
    assert line.startswith(words[0]) and all(word in line for word in words)


def test_e_alone_is_an_orbit_of_09():
    flags = "simulate --no-compilation-cache --steps 3 --Nperiod 0"
    assert call(flags, "-e").reports() == call(flags, "-e 0.9").reports()


def test_steps_that_periods_override_are_said():
    outcome = call("simulate --no-compilation-cache -e 0.5 --steps 3 --Nperiod 1")
    assert "a bound pair runs 1 periods" in outcome.err and "--Nperiod 0" in outcome.err


def test_a_rollout_that_went_wrong_names_a_flag_that_helps():
    outcome = call("simulate --no-compilation-cache --seed 1")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 1 and "the rollout went wrong" in line
    assert "--controller free-fall --symmetrize" in line
    cured = call("simulate --no-compilation-cache --seed 1 --controller free-fall --symmetrize")
    assert (cured.code, cured.err) == (0, "")
    assert cured.reports()[0]["max_energy_error"] < 1e-2


@pytest.mark.parametrize(
    ("flags", "rule", "scheme"),
    [
        ("", "fixed", "leapfrog"),
        ("--controller free-fall --scheme chin", "free-fall", "chin"),
        ("--model-path kepler_bm4", "learned", "bm4"),
    ],
)
def test_the_report_tells_rule_scheme_and_time(flags, rule, scheme):
    outcome = call("simulate --no-compilation-cache -e 0.5 --duration 0.01", flags)
    report = json.loads(outcome.out)
    assert (report["rule"], report["scheme"]) == (rule, scheme)
    assert 0 < report["wall_time"] < 600


def test_a_flag_without_a_value_is_shown_without_one():
    assert_refused(call("simulate --individual"), "--individual: needs --scheme hermite")
    bare = "simulate --individual --scheme hermite --controller free-fall"
    assert_refused(call(bare), "error: --individual: needs a rule")
