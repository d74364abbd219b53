"""Simulation, import and user errors from the command line, without any training."""

import math
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.physics.initial_conditions import kepler_batch, plummer_batch, random_table
from jaxstepper.physics.tables import save_table
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.torch_files.file import read

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = ("plain", "history", "fourier")
THREE = "--num-particles 3 --seed 5"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def reports(*argv, code=0):
    outcome = call("simulate --no-compilation-cache", *argv)
    # What these tests are about holds where the steps are too long for the energy, too.
    wrong = outcome.code == 1 and "the rollout went wrong" in outcome.err
    assert outcome.code == code or wrong, outcome.err
    return outcome.reports()


def simulate(*argv):
    (report,) = reports(*argv)
    return report


def recorded(*argv):
    """The report of a simulation, and the trajectory it wrote."""
    report = simulate(*argv, "--output", "run.npz")
    with np.load("run.npz") as file:
        return report, {name: file[name] for name in Trajectory._fields}


def assert_close(mine, theirs):
    assert mine.keys() == theirs.keys()
    words = ("rule", "scheme")
    assert [mine[name] for name in words] == [theirs[name] for name in words]
    for name in mine.keys() - words:
        assert mine[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-11)


# --- what is simulated -----------------------------------------------------------------------


def test_devices_share_the_pairs_of_one_system():
    few = "--num-particles 20 --seed 5 --softening 0.1 --steps 3 --controller huayno"
    shared = call("simulate --no-compilation-cache --shard", few)
    assert_close(shared.reports()[0], simulate(few))
    assert f"shared by {jax.local_device_count()} x cpu" in shared.err
    refused = call("simulate --shard --multi-orbit-sim")
    assert_refused(refused, "--shard: is for one large system")


def test_a_constant_dt_follows_the_kepler_ellipse():
    e, a, total_mass = 0.5, 1.3, 2.0
    report, path = recorded("-e 0.5 -a 1.3 --duration 9 --dt 1e-3")
    mean_motion = math.sqrt(total_mass / a**3)
    anomaly = mean_motion * path["time"]
    eccentric = anomaly.copy()
    for _ in range(50):
        eccentric -= (eccentric - e * np.sin(eccentric) - anomaly) / (1 - e * np.cos(eccentric))
    expected = a * np.stack(
        [np.cos(eccentric) - e, -math.sqrt(1 - e * e) * np.sin(eccentric)], axis=-1
    )
    separation = path["position"][:, 1] - path["position"][:, 0]
    np.testing.assert_allclose(separation, expected, atol=1e-4)
    assert report["energy_initial"] == pytest.approx(-1 / (2 * a))
    assert abs(report["energy_residual"]) < 1e-5
    assert report["angular_momentum_final"] == pytest.approx(
        -0.5 * math.sqrt(total_mass * a * (1 - e * e)), rel=1e-12
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_output_holds_every_state_and_agrees_with_the_report(dim):
    # More steps than one device call records.
    flags = f"{THREE} --dim {dim} --steps 1030 --dt 1e-3"
    report, path = recorded(flags)
    assert {name: array.shape for name, array in path.items()} == {
        "time": (1031,),
        "dt": (1030,),
        "position": (1031, 3, dim),
        "velocity": (1031, 3, dim),
        "energy": (1031,),
    }
    assert all(array.dtype == np.float64 for array in path.values())
    np.testing.assert_array_equal(path["dt"], 1e-3)
    np.testing.assert_allclose(path["time"], 1e-3 * np.arange(1031), rtol=1e-12)
    assert report["steps"] == 1030
    ends = report["energy_initial"], report["energy_final"]
    # The same formula in two compiled programs agrees to rounding.
    np.testing.assert_allclose(ends, path["energy"][[0, -1]], rtol=1e-13)
    assert report["energy_residual"] == (ends[1] - ends[0]) / ends[0]
    for when, at in (("initial", 0), ("final", -1)):
        x, v = path["position"][at], path["velocity"][at]
        np.testing.assert_allclose(report[f"momentum_{when}"], v.sum(axis=0), atol=1e-12)
        spin = np.cross(x, v).sum(axis=0) if dim == 3 else (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0])
        np.testing.assert_allclose(
            report[f"angular_momentum_{when}"], spin if dim == 3 else spin.sum(), rtol=1e-9
        )
    table = random_table(5, 3, dim, 1.0, 0.1, 1.0)
    np.testing.assert_array_equal(path["position"][0], table[:, 1 : 1 + dim])
    assert simulate(flags)["steps"] == 1030


def test_ic_path_takes_text_and_npy():
    table = random_table(5, 3, 2, 1.0, 0.1, 1.0)
    for name in ("bodies.txt", "bodies.npy"):
        save_table(name, table)
    steps = "--steps 9 --dt 1e-3"
    drawn = simulate(THREE, steps)
    assert simulate("--ic-path bodies.npy", steps) == drawn
    assert simulate("--ic-path bodies.txt", steps) == drawn


def test_use_train_ic_starts_where_the_model_was_trained():
    model = GOLDEN / "torch_plain.pt"
    table = np.array(read(model).train_ic)
    _, path = recorded("--use-train-ic --steps 3 --model-path", model)
    np.testing.assert_array_equal(path["position"][0], table[:, 1:3])
    np.testing.assert_array_equal(path["velocity"][0], table[:, 3:])
    call("import", model, "--out run")
    _, of_run = recorded("--use-train-ic --steps 3 --model-path run")
    np.testing.assert_array_equal(path["position"], of_run["position"])
    assert_refused(call("import", model, "--out run"), "holds epoch 2")


def test_a_model_alone_chooses_the_steps():
    flags = f"{THREE} --steps 3 --model-path {GOLDEN / 'torch_plain.pt'}"
    learned = simulate(flags, "--integrator-mode ml")
    assert simulate(flags) == learned
    assert simulate(flags, "--dt 1e-3")["end_time"] == pytest.approx(3e-3) != learned["end_time"]


@pytest.mark.parametrize(("dim", "where"), [(2, "3 4 0"), (3, "3 4 1")])
def test_tidal_field_flags_add_its_energy_and_force(dim, where):
    flags = f"{THREE} --dim {dim} --steps 4 --dt 1e-3"
    free = simulate(flags)
    tide = f"--external-field-mass 7 --external-field-position {where}"
    report, path = recorded(flags, tide)
    far = np.array(where.split()[:dim], float)
    distance, x = np.linalg.norm(far), path["position"][0]
    near = np.linalg.norm(far - x, axis=-1)
    energy = -7 * (1 / near - 1 / distance - x @ far / distance**3).sum()
    assert report["energy_initial"] == pytest.approx(free["energy_initial"] + energy, rel=1e-12)
    pull = 7 * ((far - x) / near[:, None] ** 3 - far / distance**3).sum(axis=0)
    gained = np.subtract(report["momentum_final"], free["momentum_final"])
    np.testing.assert_allclose(gained, 4e-3 * pull, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize(
    ("draw", "tables"),
    [
        ("", kepler_batch(1, 3, 0.6, 0.95, 0.8, 1.2, 1.0, 2)),
        ("--draw plummer --num-particles 4", plummer_batch(1, 3, 4)),
    ],
    ids=["pairs", "spheres"],
)
def test_multi_orbit_sim_prints_one_report_per_orbit(draw, tables):
    many = reports(f"--multi-orbit-sim --num-orbits 3 --seed 1 --Nperiod 0 --steps 20 {draw}")
    assert len(many) == 3
    for report, table in zip(many, tables, strict=True):
        np.save("one.npy", table)
        assert_close(report, simulate("--ic-path one.npy --Nperiod 0 --steps 20"))


# --- how long it lasts -----------------------------------------------------------------------

PAIR = "-e 0.5 -a 1 --dt 0.05"
PERIOD = 2 * math.pi / math.sqrt(2)


@pytest.mark.parametrize(
    ("flags", "time", "steps"),
    [
        (PAIR, 10 * PERIOD, math.ceil(10 * PERIOD / 0.05)),
        (f"{PAIR} --Nperiod 2", 2 * PERIOD, math.ceil(2 * PERIOD / 0.05)),
        (f"{PAIR} --Nperiod 0 --steps 7", 7 * 0.05, 7),
        (f"{PAIR} --stop-at-period", PERIOD, math.ceil(PERIOD / 0.05)),
        (f"{PAIR} --duration 0.52", 0.52, 11),
        (f"{THREE} --dt 1e-4", 1000 * 1e-4, 1000),
        (THREE, 1000 * 1e-2, 1000),
    ],
    ids=["ten periods", "Nperiod", "steps", "one period", "duration", "default steps", "dt"],
)
def test_length_of_a_simulation(flags, time, steps):
    report, path = recorded(flags)
    assert report["steps"] == steps
    assert path["time"].shape == (steps + 1,)
    assert path["time"][-1] == pytest.approx(time, rel=1e-12)
    assert simulate(flags)["steps"] == steps


def test_steps_of_a_bound_pair_are_said_not_to_count():
    outcome = call("simulate --steps 3 --no-compilation-cache", PAIR)
    assert outcome.reports()[0]["steps"] == math.ceil(10 * PERIOD / 0.05)
    assert "--Nperiod 0" in outcome.err


@pytest.mark.parametrize("output", ["", "--output run.npz"], ids=["report", "output"])
def test_a_rollout_that_blows_up_reports_null_and_ends_with_code_1(output):
    outcome = call("simulate --no-compilation-cache --steps 5 --dt 1e300", THREE, output)
    assert outcome.code == 1
    (report,) = outcome.reports()
    assert report["steps"] == 5
    assert report["energy_final"] is None
    assert report["energy_residual"] is None
    assert math.isfinite(report["energy_initial"])
    assert "blew up: its energy is not finite after step 1 of 5; a smaller --" in outcome.err
    assert outcome.err.count("\n") == 1


# --- files of the torch system ---------------------------------------------------------------


@pytest.fixture
def torch(monkeypatch):
    """torch, with a stand-in for the class whose objects the torch system pickles."""
    module = types.ModuleType("src.particle")
    module.ParticleTorch = type("ParticleTorch", (), {"__module__": "src.particle"})
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.particle", module)
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", RECORDED)
def test_an_imported_file_simulates_and_exports_bit_for_bit(name, torch):
    original = GOLDEN / f"torch_{name}.pt"
    assert call("import", original, "--out run").out == "run/2\n"
    mode = "history" if name == "history" else "ml"
    flags = f"--use-train-ic --steps 5 --integrator-mode {mode} --model-path"
    assert simulate(flags, "run") == simulate(flags, original)
    assert call("export run --out again.pt").out == "again.pt\n"

    theirs = torch.load(original, weights_only=False)
    ours = torch.load("again.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for key in ("epoch", "history_len", "feature_type", "dtype"):
        assert ours[key] == theirs[key]
    assert ours["extra"]["train_ic"] == theirs["extra"]["train_ic"]
    for key in ("model_state_dict", "model_state"):
        assert list(ours[key]) == list(theirs[key])
        for tensor in theirs[key]:
            assert same_bits(torch, ours[key][tensor], theirs[key][tensor])
    for key in ("optimizer_state_dict", "optimizer_state"):
        assert ours[key]["state"].keys() == theirs[key]["state"].keys()
        for parameter, moments in theirs[key]["state"].items():
            assert ours[key]["state"][parameter].keys() == moments.keys()
            for moment, tensor in moments.items():
                assert same_bits(torch, ours[key]["state"][parameter][moment], tensor)
        (group,), (of_theirs,) = ours[key]["param_groups"], theirs[key]["param_groups"]
        for setting in ("lr", "betas", "eps", "weight_decay", "params"):
            assert tuple(np.atleast_1d(group[setting])) == tuple(np.atleast_1d(of_theirs[setting]))
    for option, value in theirs["config"].items():
        if option in ("hidden_dims", "activation", "dropout", "lr", "energy_threshold", "epochs"):
            assert ours["config"][option] == value


def same_bits(torch, mine, theirs):
    return mine.dtype == theirs.dtype and torch.equal(mine, theirs)


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("train --bogus 1", "--bogus: unknown flag"),
        ("train --lr fast", "--lr fast"),
        ("train --epochs 0", "--epochs 0"),
        ("train --optimizer lbfgs", "--optimizer lbfgs"),
        ("train --optimizer adam --momentum 0.5", "--momentum 0.5"),
        ("train --optimizer adamw --momentum 0.5", "--momentum 0.5"),
        ("train --integrator-mode history", "--history-len"),
        ("train --model-path none", "none: no checkpoint there"),
        ("train --model-path none.pt", "none.pt: is not a file"),
        ("train --ic-path none.txt", "none.txt: cannot be read"),
        ("train --config none.toml", "--config none.toml"),
        ("train --config syntax.toml", "syntax.toml: not a TOML file"),
        ("train --config key.toml", "did you mean lr?"),
        ("simulate --config value.toml", 'value.toml [simulate] dt = "big"'),
        ("train --checkpoint-dir file", "file"),
        ("train --save-name file --checkpoint-dir .", "file"),
        ("simulate --integrator-mode ml", "--model-path"),
        ("simulate --use-train-ic", "--model-path"),
        ("simulate --integrator-mode ml --model-path none", "none: no checkpoint there"),
        ("simulate --integrator-mode ml --model-path none.pt", "none.pt: is not a file"),
        ("simulate --integrator-mode ml --model-path file.pt", "file.pt: damaged"),
        ("simulate --ic-path none.npy", "none.npy: cannot be read"),
        ("simulate --num-particles 3 --output file/run.npz", "--output file/run.npz"),
        ("simulate --external-field-mass 1", "--external-field-position"),
        ("both --bogus", "--bogus: unknown flag"),
        ("export none", "none: no checkpoint there"),
        ("import none.pt", "none.pt: is not a file"),
        ("import file.pt", "file.pt: damaged"),
    ],
)
def test_user_errors_are_one_line_and_write_nothing(tmp_path, argv, words):
    files = {
        "file": "",
        "file.pt": "nonsense",
        "syntax.toml": "lr = [",
        "key.toml": "lrr = 1",
        "value.toml": '[simulate]\ndt = "big"',
    }
    for name, content in files.items():
        Path(name).write_text(content)
    tiny = "--hidden-dims 8 8 --num-orbits 1 --quiet" if argv.startswith("train") else ""
    cache = "" if argv.startswith(("export", "import")) else "--no-compilation-cache"
    assert_refused(call(argv, tiny, cache), words)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == files


@pytest.mark.skipif(
    any(each.platform == "gpu" for each in jax.devices()), reason="there is a GPU here"
)
def test_a_device_that_is_absent_is_refused(tmp_path):
    for command in ("train", "simulate"):
        outcome = call(command, "--device cuda --no-compilation-cache")
        assert_refused(outcome, "--device cuda", "only cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "n", "lr"])
def test_a_value_that_is_named_like_a_flag_is_a_value(name):
    outcome = call("simulate --use-train-ic --model-path", name)
    assert_refused(outcome, f"{name}: no checkpoint there")


def test_flags_without_effect_warn_and_do_not_stop():
    outcome = call("simulate --steps 2 --eps 0.3 --no-compilation-cache", THREE)
    assert outcome.code == 0
    assert [report["steps"] for report in outcome.reports()] == [2]
    assert "--eps" in outcome.warned


def test_a_seed_that_nobody_gave_is_said_and_repeats_the_bodies():
    flags = "simulate --no-compilation-cache --num-particles 3 --steps 3"
    first = call(flags)
    (seed,) = re.findall(r"^seed (\d+)$", first.err, re.MULTILINE)
    again = call(flags, "--seed", seed)
    assert again.reports() == first.reports()
    assert "seed" not in again.err


@pytest.mark.parametrize("rule", ["--controller free-fall", "--integrator-mode analytic"])
def test_a_tolerance_that_nothing_takes_is_told_of(rule):
    outcome = call("simulate --no-compilation-cache --steps 3 --tolerance 1e-4", THREE, rule)
    assert "--tolerance has no effect on this rule" in outcome.err
