"""`export` and `import`: what goes out comes back."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.runs import checkpoints
from jaxstepper.torch_files import file as torch_file

RUNS = Path(__file__).parents[1] / "golden" / "runs"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a run of gates, of AdamW after four epochs, and one of windows."""
    for kind in ("gate", "window"):
        shutil.copytree(RUNS / f"small-{kind}", tmp_path / "checkpoints" / kind)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def moments(arrays):
    """Count and moments of Adam in the optimiser's state."""
    found = jax.tree.leaves_with_path(arrays["state"]["optimizer_state"])
    return {jax.tree_util.keystr(path[-3:]): leaf for path, leaf in found}


def test_what_is_exported_and_imported_again_is_the_same():
    assert call("export gate").out == "checkpoints/gate/model_epoch_0003.pt\n"
    outcome = call("import checkpoints/gate/model_epoch_0003.pt")
    assert outcome.out == "checkpoints/model_epoch_0003/3\n", outcome.err
    before = checkpoints.load(Path("checkpoints/gate"))
    after = checkpoints.load(Path("checkpoints/model_epoch_0003"))
    assert after.epoch == before.epoch == 3 and after.arrays["state"]["epoch"] == 4
    jax.tree.map(np.testing.assert_array_equal, after.variables, before.variables)
    ours, theirs = moments(after.arrays), moments(before.arrays)
    assert ours.keys() == theirs.keys() and any(np.any(x) for x in theirs.values())
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    np.testing.assert_array_equal(after.initial_conditions, before.initial_conditions)
    kept = ("lr", "optimizer", "hidden_dims", "feature_type", "seed", "dtype")
    assert [after.config[name] for name in kept] == [before.config[name] for name in kept]
    assert after.metrics["mean_retrain_loss"] == before.metrics["mean_retrain_loss"]


def test_export_goes_where_it_is_told_to():
    assert call("export gate/3 --out new/folder").out == "new/folder/model_epoch_0003.pt\n"
    assert call("export checkpoints/gate --epoch 3 --out new/one.pt").out == "new/one.pt\n"
    assert call("export gate --all --out new/one.pt").out == "new/one.pt\n"  # of one epoch
    files = [
        torch_file.read(Path(f"new/{name}")) for name in ("folder/model_epoch_0003.pt", "one.pt")
    ]
    assert [file.epoch for file in files] == [3, 3]
    jax.tree.map(np.testing.assert_array_equal, *(file.variables for file in files))


def test_what_cannot_be_exported_or_imported_is_refused():
    assert_refused(call("export window"), "cannot be exported", "orbital", "--feature-type")
    assert_refused(call("export gate --epoch 2"), "--epoch 2: checkpoints/gate holds 3")
    assert_refused(call("export gate --epoch 3 --all"), "not allowed with")
    assert call("export gate --out one.pt").code == 0
    assert_refused(call("import one.pt --out checkpoints/gate"), "holds epoch 3 already")
    assert sorted(each.name for each in Path("checkpoints/gate").iterdir()) == [
        "3",
        "metrics.jsonl",
    ]
