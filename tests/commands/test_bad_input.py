"""Every fault that users are likely to make: one line, exit code 2, and nothing written."""

import json
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sandbox
from commandline import assert_refused, call, outcome_of

from jaxstepper.runs import seal

ROOT = Path(__file__).parents[2]
TRAIN = "train --epochs 1 --hidden-dims 4 --save-name new --no-compilation-cache"
SIMULATE = "simulate --steps 3 --no-compilation-cache"
MODEL = f"{SIMULATE} --num-particles 3 --integrator-mode ml --model-path"
FIELD = "--external-field-mass 1 --external-field-position 1 2"
HUGE = 10**30


@pytest.fixture
def box(sandbox_source, tmp_path, monkeypatch):
    sandbox.copy(sandbox_source, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused_and_untouched(box, argv, words):
    before = sandbox.snapshot(box)
    outcome = call(*argv) if isinstance(argv, tuple) else call(argv)
    assert_refused(outcome, words)
    assert outcome.warned == ""
    assert sandbox.snapshot(box) == before


# --- tables ----------------------------------------------------------------------------------


class Trap:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def header(shape, kind="<f8"):
    def write(path):
        about = {"descr": kind, "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, about)
            file.write(b"\0" * 80)

    return write


def zeros(size):
    def write(path):
        with path.open("wb") as file:
            file.truncate(size)

    return write


def archive(path):
    with path.open("wb") as file:
        np.savez(file, table=np.ones((2, 5)))


TEXTS = [
    ("1 0 0 0\n1 1 0 0\n", "has 4 columns"),
    ("1 0 0 0 0\n1 1 0 0\n", "line 2 has 4 columns, those above 5"),
    ("1 0 0 zero 0\n1 1 0 0 0\n", "line 1, column 4: 'zero' is not a number"),
    ("1 nan 0 0 0\n1 1 0 0 0\n", "body 0 (counted from 0) has x0 = nan"),
    ("1 0 0 0 0\n1 1 0 0 -inf\n", "body 1 (counted from 0) has v1 = -inf"),
    ("1 1e400 0 0 0\n1 1 0 0 0\n", "body 0 (counted from 0) has x0 = inf"),
    ("-1 0 0 0 0\n1 1 0 0 0\n", "has mass = -1.0; give a mass >= 0"),
    ("0 0 0 0 0\n0 1 0 0 0\n", "no body has a mass > 0"),
    ("1 0 0 0 0\n", "has only one body"),
    ("1 0 0 0 0\n1 0 0 1 0\n", "are in the same place"),
    ("", "is empty"),
    ("\0" * 50, "is not text"),
    ("1 1e300 0 0 0\n1 -1e300 1 0 1\n", "are too far apart in float64"),
    ("1 1e-200 0 0 0\n1 0 0 0 1\n", "are in the same place in float64"),
    ("1 1e-110 0 0 0\n1 0 0 0 1\n", "their force overflows in float64"),
    ("1e200 1 0 0 0\n1e200 0 0 0 1\n", "their energy overflows in float64"),
    ("1 1 0 1e200 0\n1 0 0 0 1\n", "has a kinetic energy that overflows in float64"),
]
ARRAYS = [
    (np.ones((2, 5), complex), "holds complex128 values"),
    (np.ones((2, 5), bool), "holds bool values"),
    (np.zeros(2, [("m", "f8"), ("x", "f8")]), "give real numbers"),
    (np.zeros((2, 5), "M8[s]"), "holds datetime64[s] values"),
    (np.full((2, 5), np.longdouble("1e400")), "has mass = inf"),
    (np.ones((2, 0)), "is empty, shape (2, 0)"),
    (np.ones((0, 2, 5)), "is empty, shape (0, 2, 5)"),
    (np.array([[[1.0, 0, 0], [1, 1, 0]]] * 2), "holds 2 systems"),
]
FILES = [
    ("t.npy", lambda path: path.write_bytes(pickle.dumps(Trap())), "is not a plain .npy array"),
    (
        "t.npy",
        lambda path: np.save(path, np.array([[Trap()] * 5] * 2)),
        "is not a plain .npy array",
    ),
    ("t.npy", archive, "is not a plain .npy array"),
    ("t.npy", Path.touch, "is not a plain .npy array"),
    ("t.npy", header((10**12, 5)), "is not a plain .npy array"),
    ("t.npy", header((-2, 5)), "is not a plain .npy array"),
    ("t.npy", header((2, 5), "|V8"), "give real numbers"),
    ("t.npy", header((2, 5), "hello"), "is not a plain .npy array"),
    ("t.npy", zeros(2**42), "to read it: needs more than 4,398 GB of memory"),
    ("t.txt", zeros(2**42), "to read it: needs more than 43,980 GB of memory"),
    ("t.npz", archive, "is not a rollout that simulate --output wrote"),
    ("t.txt", Path.mkdir, "cannot be read (Is a directory)"),
    ("t.txt", lambda path: path.write_bytes(b"\xff\xfe1 0"), "is not text"),
    ("/dev/zero", lambda path: None, "is a device"),
    ("none.txt", lambda path: None, "cannot be read (No such file or directory)"),
]


@pytest.mark.parametrize(("text", "words"), TEXTS)
def test_faulty_text_tables(box, text, words):
    (box / "t.txt").write_text(text)
    assert_refused_and_untouched(box, f"{SIMULATE} --ic-path t.txt", words)


@pytest.mark.parametrize(("array", "words"), ARRAYS)
def test_faulty_arrays(box, array, words):
    np.save(box / "t.npy", array)
    assert_refused_and_untouched(box, f"{TRAIN} --ic-path t.npy", words)


@pytest.mark.parametrize(("name", "write", "words"), FILES)
def test_files_that_are_no_tables(box, name, write, words):
    write(box / name)
    # The size of the sparse files is all that is looked at; they must not be read here either.
    if name.startswith("t.") and (box / name).is_file() and (box / name).stat().st_size > 2**40:
        assert_refused(call(f"{SIMULATE} --ic-path {name}"), words)
    else:
        assert_refused_and_untouched(box, f"{SIMULATE} --ic-path {name}", words)
    assert not (box / "sprung").exists()


def test_bodies_that_only_float64_can_hold(box):
    (box / "t.txt").write_text("1 1 0 0 0\n1 1.000000000001 0 1 0\n")
    for command in (SIMULATE, TRAIN):
        argv = f"{command} --dtype float32 --ic-path t.txt"
        assert_refused_and_untouched(box, argv, "are in the same place in float32")
    (box / "t.txt").write_text("1e-50 0 0 0 0\n1 1 0 0 0\n")
    assert_refused_and_untouched(box, argv, "overflows or vanishes in float32")


def test_text_may_begin_with_a_byte_order_mark(box):
    (box / "t.txt").write_text(sandbox.GOOD, encoding="utf-8-sig")
    (box / "c.toml").write_text("steps = 2", encoding="utf-8-sig")
    assert call("simulate --Nperiod 0 --config c.toml --ic-path t.txt").reports()[0]["steps"] == 2


# --- TOML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epoch = 3", "c.toml epoch = 3: unknown key; did you mean epochs?"),
        ("save-name = 'x'", "did you mean save_name?"),
        ("[training]\nlr = 1", "c.toml [training]: unknown table"),
        ("[train]\noutput = 'x.npz'", "train does not take it, simulate does"),
        ("epochs = '3'", 'epochs = "3": must be an integer >= 1'),
        ("epochs = true", "epochs = true: must be an integer >= 1"),
        ("epochs = 3.0", "epochs = 3.0: must be an integer >= 1"),
        ("epochs = -3", "epochs = -3: must be an integer >= 1"),
        (f"epochs = {HUGE}", "must be at most 2147483647"),
        (f"epochs = {'9' * 5000}", "not a TOML file"),
        ("dropout = 1.5", "dropout = 1.5: must be a number in [0, 1)"),
        ("hidden_dims = []", "hidden_dims = []: must be one or more integers >= 1"),
        (f"hidden_dims = [8, {HUGE}]", "must be at most 2147483647"),
        ("E_lower = 1\nE_upper = 0.1", "E_lower = 1.0: must be <= E_upper, 0.1"),
        ("integrator_mode = 'history'", "needs history_len"),
        ("fourier_dim = 7", "fourier_dim = 7: must be an even integer >= 2"),
        ("lr = nan", "lr = NaN: must be a number > 0"),
        ("lr = 1e400", "must be a number > 0"),
        (f"lr = {10**400}", "must be a number > 0"),
        ("lr = 2020-01-01", 'lr = "2020-01-01": must be a number > 0'),
        ("[train.lr]\nx = 1", 'lr = {"x": 1}: must be a number > 0'),
        ("train = 3", "must be a table, [train]"),
        ("lr = 1\nlr = 2", "not a TOML file: Cannot overwrite a value"),
        ("lr = " + "[" * 3000, "nested too deeply"),
        ('save_name = "a\\u0000b"', "must be a relative name"),
        ("save_name = '../x'", "must be a relative name"),
        (f"ic_path = '{'x' * 5000}'", "must be a path, printable and not too long"),
        ("external_field_mass = 1\nexternal_field_position = [0, 0]", "away from the origin"),
    ],
)
def test_faulty_toml(box, content, words):
    (box / "c.toml").write_text(content)
    assert_refused_and_untouched(box, f"{TRAIN} --config c.toml", words)


@pytest.mark.parametrize("content", [b"save_name = '\xe9'", b"save_name = 'a\0b'", b"\0\1\2"])
def test_toml_that_is_no_text(box, content):
    (box / "c.toml").write_bytes(content)
    assert_refused_and_untouched(box, f"{TRAIN} --config c.toml", "c.toml: not a TOML file")


# --- flags -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (f"{TRAIN} --save-name /tmp/x", "must be a relative name"),
        (f"{TRAIN} --save-name {'x' * 300}", "must be a relative name"),
        (f"{TRAIN} --save-name kept/0", "lies in checkpoints/kept, which is a run itself"),
        (f"{TRAIN} --checkpoint-dir good.txt", "good.txt/new: cannot be written (Not a directory)"),
        (f"{TRAIN} --checkpoint-dir /proc/x", "/proc/x/new: cannot be written"),
        (f"{SIMULATE} --output x.txt", "must be a path that ends in .npz or .h5"),
        (f"{SIMULATE} --output good.txt/x.npz", "cannot be written (Not a directory)"),
        (f"{SIMULATE} --output folder.npz", "cannot be written (it is a folder)"),
        (f"{SIMULATE} --output /proc/x.npz", "cannot be written"),
        (f"{SIMULATE} -e 1.0", "--eccentricity 1.0: must be a number in [0, 1)"),
        (f"{SIMULATE} --multi-orbit-sim --num-particles 5", "Kepler pairs have 2 bodies"),
        (f"{TRAIN} --multi-orbit --num-particles 5", "--num-particles 5: Kepler pairs have 2"),
        (
            f"{TRAIN} --multi-orbit --draw plummer --dim 2",
            "--draw plummer is in 3 dimensions",
        ),
        (
            f"{TRAIN} --multi-orbit --draw virial --binaries 1 --a-min 0.1 --a-max 0.1",
            "--binaries 1: is for draw plummer (--draw plummer)",
        ),
        (
            f"{TRAIN} --multi-orbit --draw plummer --binaries 1 --a-max 0.1",
            "--binaries 1: needs a_min and a_max",
        ),
        (
            f"{SIMULATE} --multi-orbit-sim --draw plummer {FIELD}",
            "--external-field-position 1.0 2.0: must be 3 numbers (dim is 3)",
        ),
        (f"{SIMULATE} --num-particles {HUGE}", "must be at most 2147483647"),
        (f"{SIMULATE} --num-particles 2147483647 --dim 1000", "GB of memory"),
        (f"{SIMULATE} --multi-orbit-sim --num-orbits 2147483647 --dim 900", "GB of memory"),
        (f"{TRAIN} --hidden-dims 1000000000 1000000000", "a network of layers of 11 1000000000"),
        (f"{TRAIN} --history-len 2000000000 --hidden-dims 500", "GB of memory"),
        (f"{TRAIN} --fourier-scale 1 --fourier-dim 2000000000 --hidden-dims 900", "GB of memory"),
        (f"{TRAIN} --steps-per-epoch 2147483647 --dim 99", "an epoch of 2147483647 samples"),
        (f"{SIMULATE} --steps {HUGE}", "must be at most 2147483647"),
        (f"{TRAIN} --n-steps {HUGE}", "must be at most 2147483647"),
        (f"{TRAIN} --pos-scale 1e300", "the drawn bodies: body 0"),
        (f"{TRAIN} --pos-scale 1e-300", "the drawn bodies: body 0"),
        (f"{TRAIN} --vel-scale 1e300", "has a kinetic energy that overflows"),
        (f"{TRAIN} --mass 1e300", "their energy overflows"),
        (f"{TRAIN} -e 0.5 -a 1e300", "are too far apart"),
        (f"{TRAIN} --softening 1e300", "softening 1e+300: its square overflows in float64"),
        (f"{TRAIN} --device cuda:0", "must be one of auto, cpu"),
        (f"both {TRAIN[6:]} --output good.txt/x.npz", "cannot be written"),
        (f"both {TRAIN[6:]} --history-len 2 --integrator-mode ml", "use --integrator-mode history"),
        (f"both {TRAIN[6:]} --num-particles 3 --multi-orbit-sim", "Kepler pairs have 2 bodies"),
    ],
)
def test_faulty_flags(box, argv, words):
    assert_refused_and_untouched(box, argv, words)


def test_both_reads_the_simulation_s_table_before_it_trains(box):
    (box / "c.toml").write_text("[simulate]\nic_path = 'none.txt'")
    argv = f"both {TRAIN[6:]} --config c.toml"
    assert_refused_and_untouched(box, argv, "none.txt: cannot be read")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("-e 0.5 --num-particles 3", "a Kepler pair has 2 particles in 2D or more, not 3 in 2D"),
        ("-a 0.5 --dim 1", "a Kepler pair has 2 particles in 2D or more, not 2 in 1D"),
        ("-e 0.5 --ic-path good.txt", "the bodies are those of good.txt"),
        ("-e 0.5 --multi-orbit-sim --num-orbits 2", "many systems are drawn (--draw kepler)"),
    ],
)
def test_an_orbit_that_is_not_used_is_warned_of(box, flags, why):
    outcome = call(f"{SIMULATE} --duration 0 {flags}")
    assert outcome.code == 0
    assert why in outcome.warned
    assert call(f"{SIMULATE} --duration 0 -e 0.5 -a 2").warned == ""


def test_control_characters_do_not_break_the_line(box):
    for argv in (["plot", "a\nb.npz"], ["simulate", "--ic-path", "a\nb"], ["tra\nin"]):
        outcome = call(*map(Path, argv))  # texts would be split
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1


# --- models, export, import, plot ------------------------------------------------------------


def change_metadata(box, change):
    for path in box.glob("checkpoints/kept/*/_CHECKPOINT_METADATA"):
        about = json.loads(path.read_text())
        change(about["custom_metadata"])
        path.write_text(json.dumps(about))
        seal.seal(path.parent)  # as a newer version would have


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("none", "none: no checkpoint there"),
        ("kept/7", "kept/7: no such epoch; checkpoints/kept holds 0"),
        ("good.txt", "good.txt: no checkpoint there"),
        ("checkpoints", "checkpoints: no checkpoint there"),
        ("kept --feature-type rich", "--feature-type rich: checkpoints/kept/0 was trained with"),
        ("kept --hidden-dims 8 9", "--hidden-dims 8 9: checkpoints/kept/0 was trained with 8 8"),
        ("kept --history-len 3", "--history-len 3: checkpoints/kept/0 was trained with 0"),
        ("kept --integrator-mode history", "was trained without a history"),
        ("kept.pt --feature-type rich", "--feature-type rich: kept.pt was trained with delta_mag"),
        ("text.pt", "text.pt: damaged, or no torch checkpoint"),
        ("kept.pt --use-train-ic --num-particles 4", "has 3 bodies, not 4"),
    ],
)
def test_faulty_models(box, flags, words):
    assert_refused_and_untouched(box, f"{MODEL} {flags}", words)


def test_a_newer_format(box):
    change_metadata(box, lambda about: about.update(format=99))
    for argv in (f"{MODEL} kept", f"{TRAIN} --model-path kept", "export kept --out new.pt"):
        assert_refused_and_untouched(box, argv, "written by a newer jaxstepper (format 99")


def test_a_checkpoint_file_that_is_cut_or_would_run_code(box):
    torch = pytest.importorskip("torch")
    (box / "cut.pt").write_bytes((box / "kept.pt").read_bytes()[:-2000])
    torch.save({"model_state_dict": Trap()}, box / "trap.pt")
    for name, words in (("cut.pt", "damaged"), ("trap.pt", "mkdir, which could run code")):
        assert_refused_and_untouched(box, f"{MODEL} {name}", words)
        assert_refused_and_untouched(box, f"import {name} --out new", words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("export kept --epoch 9", "--epoch 9: checkpoints/kept holds 0"),
        ("export kept --epoch x", "--epoch: invalid int value: 'x'"),
        ("export", "RUN"),
        ("export kept --out good.txt/x", "cannot be written (Not a directory)"),
        ("export kept --out good.txt", "cannot be written (Not a directory)"),
        ("import kept.pt --out checkpoints/kept", "holds epoch 0 already"),
        ("import kept.pt --out checkpoints/kept/0", "lies in checkpoints/kept, which is a run"),
        ("import kept.pt --out good.txt", "cannot be written (Not a directory)"),
        ("import rollout.npz --out new", "damaged, or no torch checkpoint"),
        ("import checkpoints --out new", "is not a file"),
        ("plot none.npz", "cannot be read (No such file or directory)"),
        ("plot good.txt", "is not a rollout"),
        ("plot checkpoints", "no checkpoint there"),
        ("plot none", "none: no checkpoint there"),
        ("plot folder.npz", "cannot be read (Is a directory)"),
        ("plot kept/9", "no such epoch; checkpoints/kept holds 0"),
        ("plot kept --system 0", "--system 0: is for a rollout"),
        ("plot kept --out x.xyz", "Format 'xyz' is not supported"),
        ("plot rollout.npz --system 1", "--system 1: rollout.npz holds 1"),
        ("plot rollout.npz --out x.xyz", "Format 'xyz' is not supported"),
        ("plot rollout.npz --out folder.npz", "cannot be written (it is a folder)"),
        ("plot rollout.npz --out /proc/x.png", "cannot be written"),
    ],
)
def test_faulty_files_of_export_import_and_plot(box, argv, words):
    assert_refused_and_untouched(box, argv, words)


@pytest.mark.parametrize(
    "changes",
    [
        {"time": np.ones(7)},
        {"dt": np.ones(7)},
        {"position": np.ones(3)},
        {"time": np.zeros(0), "dt": np.zeros(0)},
        {"time": np.array(["a", "b", "c"])},
        {"energy": np.array([Trap()] * 3)},
        {"position": np.ones((3, 0, 2))},
        {"position": np.full((3, 2, 2), np.nan)},
        {"time": np.ones((2, 3))},
    ],
)
def test_archives_that_are_no_rollouts(box, changes):
    with np.load(box / "rollout.npz") as file:
        np.savez(box / "other.npz", **{**file, **changes})
    assert_refused_and_untouched(box, "plot other.npz", "other.npz: ")
    assert not (box / "sprung").exists()


# --- as users run them -----------------------------------------------------------------------


@pytest.mark.processes
def test_a_process_refuses_in_one_line_and_writes_nothing(box):
    (box / "bad.txt").write_text("1 0 0 0\n1 1 0 0\n")
    before = sandbox.snapshot(box)
    argv = "--ic-path bad.txt --save-name new --wandb"
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", *argv.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(box / "cache")},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert "bad.txt: has 4 columns" in run.stderr
    assert sandbox.snapshot(box) == before


@pytest.mark.parametrize(
    ("script", "argv", "words"),
    [
        ("train.py", "--epochs -3", "--epochs -3: must be an integer >= 1"),
        ("simulate.py", "--ic-path trap.npy", "trap.npy: is not a plain .npy array"),
        ("export_torch.py", "none", "none: no checkpoint there"),
        ("import_torch.py", "text.pt", "text.pt: damaged"),
        ("plot.py", "none.npz", "none.npz: cannot be read"),
    ],
)
def test_scripts_refuse_in_one_line_and_write_nothing(box, script, argv, words, monkeypatch):
    (box / "trap.npy").write_bytes(pickle.dumps(Trap()))
    before = sandbox.snapshot(box)
    monkeypatch.setattr(sys, "argv", [script, *argv.split()])
    path = str(ROOT / "scripts" / script)
    outcome = outcome_of(runpy.run_path, path, run_name="__main__")
    assert_refused(outcome, words)
    assert outcome.warned == ""
    assert sandbox.snapshot(box) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("make-ics plummer --out x.xyz", "--out x.xyz: unknown suffix"),
        ("make-ics plummer --out good.txt/x.npy", "cannot be written (Not a directory)"),
        ("make-ics plummer --out new/x.txt -n 3 --count 9", "many systems (--count)"),
        ("make-ics random --out x.npy -n 2147483647 --dim 99", "GB of memory"),
        (f"make-ics plummer --out x.npy -n {HUGE}", "must be at most 2147483647"),
        ("evaluate --quick --out good.txt", "cannot be written (Not a directory)"),
        ("evaluate --quick --rules none --out new", "there is no such rule"),
        ("evaluate --quick --model none --out new", "none: no checkpoint there"),
        ("evaluate --quick --problems none --out new", "none"),
        ("evaluate --quick --batch 8 --no-time --out new", "--batch 8: is for times"),
    ],
)
def test_faulty_flags_of_make_ics_and_evaluate(box, argv, words):
    assert_refused_and_untouched(box, argv, words)
