"""A folder with all that a command may be pointed at, and whether it stayed as it was."""

import shutil
from pathlib import Path

import numpy as np
from commandline import TINY, call

GOOD = "1 0.5 0 0 0.5\n1 -0.5 0 0 -0.5\n"


def build(folder):
    """A run `kept`, its checkpoint file, a rollout, a good table and files of other kinds.

    `folder` is the working directory.
    """
    trained = call(TINY, "--epochs 1 --save-name kept --quiet")
    assert trained.code == 0, trained.err
    assert call("export kept --out", "kept.pt").code == 0
    arrays = {"time": 3, "energy": 3, "dt": 2}
    rollout = {name: 1.0 + np.arange(size) for name, size in arrays.items()}
    np.savez(folder / "rollout.npz", position=np.ones((3, 2, 2)), **rollout)
    (folder / "good.txt").write_text(GOOD)
    (folder / "good.toml").write_text("epochs = 1\n")
    (folder / "text.pt").write_text("nonsense")
    (folder / "folder.npz").mkdir()


def copy(source, target):
    shutil.copytree(source, target, dirs_exist_ok=True)


def snapshot(folder):
    """Every path below a folder, with the content of the files."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }
