"""Which config a resumed run goes on with, and which it refuses."""

from pathlib import Path

import pytest

from jaxstepper.errors import UserError
from jaxstepper.runs.checkpoints import Checkpoint
from jaxstepper.runs.resume import HARMLESS, resumed_config, what_was_set
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.config import OPTIONS
from jaxstepper.settings.stored import to_dict


def kept(flags, came_to=None):
    """What `resumed_config` reads of a checkpoint of a run with these flags."""
    request = parse("train", flags.split())
    about = {"given": what_was_set(request)}
    saved = {**to_dict(request.config), **(came_to or {})}
    return Checkpoint(Path("checkpoints/run/3"), 3, saved, metrics={}, about=about, arrays={})


def resumed(flags, checkpoint):
    return resumed_config(parse("train", flags.split()), checkpoint)


def test_what_was_set_leaves_out_the_defaults_and_is_plain():
    request = parse("train", ["--hidden-dims", "8", "4", "--lr", "0.5"])
    assert what_was_set(request) == {"hidden_dims": [8, 4], "lr": 0.5}


def test_the_config_of_the_run_stays_but_for_what_is_harmless():
    before = kept("--lr 0.5 --epochs 3 --keep 2")
    now = resumed("--epochs 9 --save-name run --checkpoint-dir other", before)
    assert (now.lr, now.epochs, now.keep) == (0.5, 9, 2)
    assert (now.save_name, now.checkpoint_dir) == ("run", "other")


def test_a_run_goes_on_where_it_was_found_and_not_where_it_was_begun():
    now = resumed("--save-name moved", kept("--save-name run --checkpoint-dir old"))
    assert (now.save_name, now.checkpoint_dir) == ("moved", "checkpoints")


def test_a_window_run_from_before_its_rate_and_inputs_were_suited_keeps_its_own():
    old = {"lr": 1e-4, "weight_decay": 1e-2, "feature_type": "delta_mag"}
    now = resumed("--objective window --epochs 9", kept("--objective window", came_to=old))
    assert {name: getattr(now, name) for name in old} == old


def test_what_is_computed_may_not_change_and_all_of_it_is_named():
    with pytest.raises(UserError) as caught:
        resumed("--lr 0.25 --dim 3 --epochs 9", kept("--lr 0.5"))
    message = str(caught.value)
    assert message.startswith("--resume: checkpoints/run was trained with another config: ")
    assert "--lr 0.25 (was 0.5)" in message and "--dim 3 (was 2)" in message
    assert "epochs" not in message


def test_the_same_value_may_be_given_again_though_another_came_of_it():
    """Bodies of a draw may be more than were asked for."""
    before = kept("--num-particles 3", came_to={"num_particles": 5})
    assert resumed("--num-particles 3", before).num_particles == 5
    with pytest.raises(UserError, match=r"--num-particles 5 \(was 3\)"):
        resumed("--num-particles 5", before)


def test_what_decides_what_is_computed_is_not_harmless():
    decisive = {"lr", "optimizer", "seed", "dtype", "hidden_dims", "feature_type", "softening"}
    decisive |= {"objective", "band", "steps_per_epoch", "replay_steps", "retrain_batch"}
    assert OPTIONS.keys() >= HARMLESS and not HARMLESS & decisive
