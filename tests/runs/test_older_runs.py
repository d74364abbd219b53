"""Runs that an earlier version saved go on here to the end that they had there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import call

RUNS = Path(__file__).parents[1] / "golden" / "runs"
"""`small-*` were saved after 4 of 8 epochs, before the modules moved into wings; `whole-*` are
the metrics of the same runs without a stop. The window runs keep no progress within an epoch."""


@pytest.mark.parametrize("kind", ["gate", "window"])
def test_it_ends_as_it_would_have_ended(kind, tmp_path):
    shutil.copytree(RUNS / f"small-{kind}", tmp_path / "run")
    flags = "train --resume --save-name run --epochs 8 --no-compilation-cache --quiet"
    outcome = call(f"{flags} --checkpoint-dir", tmp_path)
    assert outcome.code == 0, outcome.err
    files = (tmp_path / "run" / "metrics.jsonl", RUNS / f"whole-{kind}.jsonl")
    ours, theirs = ([json.loads(line) for line in f.read_text().splitlines()] for f in files)
    assert [row["epoch"] for row in ours] == list(range(8))
    for mine, before in zip(ours, theirs, strict=True):
        assert mine.keys() - {"epoch_time"} == before.keys()
        # To rounding, which differs from one processor to the next.
        for name, value in before.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-6, err_msg=name)
