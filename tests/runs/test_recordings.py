"""Files of recorded rollouts: what they hold, interruptions, and going on with them."""

import sys

import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.runs.recordings import end_of_recording, open_writer
from jaxstepper.stepping import output

GRAVITY = js.Gravity()
START = js.from_table(js.kepler_pair(0.6, total_mass=1.0, phase=np.pi), GRAVITY.acceleration)
RULE = js.symmetrized(js.free_fall(0.05))
UNITS = js.read_units("au yr Msun")


@pytest.fixture(params=["npz", "h5"])
def suffix(request):
    return request.param


def test_a_file_holds_what_was_recorded(tmp_path, suffix):
    path = tmp_path / "new" / f"run.{suffix}"
    end = js.record_to(
        path, RULE, GRAVITY, START, js.Limits(time=9.0), names=("a", "b"), units=UNITS
    )
    found = js.read_recording(path)
    _, states = js.record(RULE, GRAVITY, START, js.Limits(time=9.0))
    for name in states._fields:
        np.testing.assert_array_equal(found.arrays[name], getattr(states, name), err_msg=name)
    np.testing.assert_array_equal(found.mass, START.mass)
    assert found.names == ("a", "b")
    assert found.about["units"] == UNITS.names
    assert found.about["version"] == js.__version__
    table, names = end_of_recording(path, UNITS)
    np.testing.assert_array_equal(table[:, 1:3], end.particles.position)
    assert names == ("a", "b")


def test_going_on_ends_as_a_rollout_that_did_not_end(tmp_path, suffix):
    first, rest = tmp_path / f"first.{suffix}", tmp_path / f"rest.{suffix}"
    js.record_to(first, RULE, GRAVITY, START, js.Limits(time=4.2), every=1.0, names=("a", "b"))
    end = js.go_on(first, RULE, GRAVITY, js.Limits(time=9.0), rest, every=1.0)
    whole = tmp_path / f"whole.{suffix}"
    expected = js.record_to(whole, RULE, GRAVITY, START, js.Limits(time=9.0), every=1.0)
    np.testing.assert_array_equal(end.particles.position, expected.particles.position)
    found, all_ = js.read_recording(rest), js.read_recording(whole)
    np.testing.assert_array_equal(found.arrays["time"], [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(found.arrays["position"], all_.arrays["position"][5:])
    assert found.names == ("a", "b")


def test_individual_steps_go_on_too(tmp_path, suffix):
    first, rest, whole = (tmp_path / f"{name}.{suffix}" for name in ("first", "rest", "whole"))
    criterion, kept = js.Aarseth(0.02), {"every": 1.0}
    on = js.record_individual(first, criterion, GRAVITY, START, 4.2, 0.5, names=("a", "b"), **kept)
    assert js.read_recording(first).about["scheme"] == "hermite"
    on = js.go_on_individual(first, criterion, GRAVITY, 9.0, rest, **kept)
    expected = js.record_individual(whole, criterion, GRAVITY, START, 9.0, 0.5, **kept)
    np.testing.assert_array_equal(on.motion, expected.motion)
    found, all_ = js.read_recording(rest), js.read_recording(whole)
    np.testing.assert_array_equal(found.arrays["time"], [5, 6, 7, 8, 9])
    np.testing.assert_array_equal(found.arrays["position"], all_.arrays["position"][5:])
    assert found.names == ("a", "b")
    alone = js.go_on_individual(first, criterion, GRAVITY, 9.0)
    np.testing.assert_allclose(alone.motion, expected.motion, atol=1e-12)
    with pytest.raises(UserError, match="was recorded with another rule"):
        js.go_on(first, RULE, GRAVITY, js.Limits(time=9.0))


def test_an_interruption_leaves_a_file_to_go_on_with(tmp_path, suffix):
    path, calls = tmp_path / f"run.{suffix}", []

    def interrupt(share):
        calls.append(share)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        js.record_to(path, RULE, GRAVITY, START, js.Limits(time=90.0), report=interrupt)
    found = js.read_recording(path)
    states = len(found.arrays["time"])
    assert states > 3 and len(found.arrays["dt"]) == states - 1
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    end = js.go_on(path, RULE, GRAVITY, js.Limits(time=90.0), tmp_path / "rest.npz")
    expected = js.record_to(tmp_path / "whole.npz", RULE, GRAVITY, START, js.Limits(time=90.0))
    np.testing.assert_array_equal(end.particles.position, expected.particles.position)


def test_several_systems_are_padded(tmp_path, suffix):
    path = tmp_path / f"run.{suffix}"
    with open_writer(path, np.stack([START.mass] * 2), (), {}) as writer:
        for i, time in enumerate((2.0, 5.0)):
            limits = js.Limits(time=time)
            going = output.begin(RULE, GRAVITY, START, limits)
            output.record_on(RULE, GRAVITY, going, limits, lambda *rows, i=i: writer.rows(i, *rows))
    found = js.read_recording(path)
    time = found.arrays["time"]
    lengths = np.sum(np.isfinite(time), axis=1)
    assert time.shape == (2, lengths[1]) and lengths[0] < lengths[1]
    assert found.arrays["dt"].shape == (2, lengths[1] - 1)
    assert np.all(np.isnan(found.arrays["position"][0, lengths[0] :]))
    assert time[0, lengths[0] - 1] == 2.0 and time[1, -1] == 5.0
    tables, _ = end_of_recording(path)
    np.testing.assert_array_equal(tables[1, :, 1:3], found.arrays["position"][1, -1])
    np.testing.assert_array_equal(tables[0, :, 1:3], found.arrays["position"][0, lengths[0] - 1])


def test_going_on_neither_turns_round_nor_replaces_its_file(tmp_path):
    path = tmp_path / "run.npz"
    js.record_to(path, RULE, GRAVITY, START, js.Limits(time=9.0))
    with pytest.raises(UserError, match=r"run\.npz: reached time 9 already"):
        js.go_on(path, RULE, GRAVITY, js.Limits(time=-1.0))
    with pytest.raises(UserError, match=r"run\.npz: would replace the rollout"):
        js.go_on(path, RULE, GRAVITY, js.Limits(time=10.0), path)


@pytest.mark.parametrize("rule", [js.free_fall(0.05), js.HairerSoderlind(0.05)])
def test_another_rule_cannot_go_on(tmp_path, rule):
    path = tmp_path / "run.npz"
    js.record_to(path, RULE, GRAVITY, START, js.Limits(time=9.0))
    with pytest.raises(UserError, match=r"run\.npz: was recorded with another rule"):
        js.go_on(path, rule, GRAVITY, js.Limits(time=2.0))


@pytest.mark.parametrize(
    ("rule", "gravity", "said"),
    [
        (js.symmetrized(js.free_fall(0.051)), GRAVITY, "eta 0.05, not 0.051"),
        (
            js.symmetrized(js.DistanceOverAcceleration(0.05)),
            GRAVITY,
            "rule Symmetrized of FreeFall",
        ),
        (RULE.on(js.Chin()), GRAVITY, "scheme leapfrog, not chin"),
        (RULE, js.Gravity(G=2.0), "G 1.0, not 2.0"),
        (RULE, js.Gravity(softening=0.1), "softening 0.0, not 0.1"),
    ],
)
def test_other_numbers_cannot_go_on(tmp_path, rule, gravity, said):
    path = tmp_path / "run.npz"
    js.record_to(path, RULE, GRAVITY, START, js.Limits(time=1.0))
    with pytest.raises(UserError, match=rf"run\.npz: was recorded with {said}"):
        js.go_on(path, rule, gravity, js.Limits(time=2.0))


def test_individual_steps_go_on_with_their_own_eta_alone(tmp_path):
    path = tmp_path / "run.npz"
    js.record_individual(path, js.Aarseth(0.02), GRAVITY, START, 1.0, 0.5)
    with pytest.raises(UserError, match=r"run\.npz: was recorded with eta 0\.02, not 0\.03"):
        js.go_on_individual(path, js.Aarseth(0.03), GRAVITY, 2.0)


def test_a_trained_rule_goes_on_with_its_own_weights_alone(tmp_path):
    rules = [js.load_rule(name, GRAVITY, tolerance=1e-2) for name in ("kepler", "kepler_chin")]
    mine, other = (rule.on(js.Leapfrog()) for rule in rules)
    path = tmp_path / "run.npz"
    js.record_to(path, mine, GRAVITY, START, js.Limits(time=1.0))
    with pytest.raises(UserError, match=r"run\.npz: was recorded with weights"):
        js.go_on(path, other, GRAVITY, js.Limits(time=2.0))
    assert js.go_on(path, mine, GRAVITY, js.Limits(time=2.0)).particles.time == 2


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_what_is_no_recording_is_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="cannot be read"):
        js.read_recording(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match=r"cannot be read|is not a rollout"):
        js.read_recording(path)
    np.savez(tmp_path / "b.npz", time=np.zeros(3))
    with pytest.raises(UserError, match="is not a rollout"):
        js.read_recording(tmp_path / "b.npz")


def test_a_missing_h5py_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"HDF5 needs h5py: pip install .*\.npz"):
        js.record_to(tmp_path / "a.h5", RULE, GRAVITY, START, js.Limits(time=1.0))
