"""Movies: what their frames show, how many there are, and that nothing else changes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import jax
import numpy as np
import pytest
from commandline import TINY, assert_refused, call
from PIL import Image

from jaxstepper.commands import train_job
from jaxstepper.commands.movies import open_training_movie
from jaxstepper.pictures import training_movie
from jaxstepper.pictures.figures import BLUE, BODY_COLOURS, FEW_BODIES
from jaxstepper.pictures.film import Film, film_of
from jaxstepper.pictures.movies import MovieOptions, check_movie
from jaxstepper.pictures.scene import Scene
from jaxstepper.runs import checkpoints
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.config import Config
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.training.objective import Objective

SMALL = "--movie --movie-dpi 20"
SIMULATE = "simulate --no-compilation-cache --num-particles 3 --seed 5 --steps 30 --dt 1e-3"
TRAIN = f"{TINY} --num-orbits 1 --quiet"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def frames_of(path):
    count, _ = imageio_ffmpeg.count_frames_and_secs(path)
    return count


def film(bodies=3, dim=2, states=20, restart=None, epochs=None):
    """States at random, that start anew at `restart`."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, states)
    if restart is not None:
        time[restart:] -= time[restart]
    position, velocity = rng.normal(size=(2, states, bodies, dim))
    dt = np.r_[np.nan, 10.0 ** rng.uniform(-3, -1, states - 1)]
    energy = -2 - rng.random(states)
    return Film(1.0 + np.arange(bodies), time, dt, position, velocity, energy, epochs)


# --- the figure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
def test_curves_are_the_errors_of_what_is_conserved(dim):
    shown = film(dim=dim)
    scene = Scene(shown, 20)
    m, x, v = shown.mass[:, None], shown.position, shown.velocity
    p = np.sum(m * v, axis=1)
    turn = [(0, 1)] if dim == 2 else [(0, 1), (1, 2), (2, 0)]
    spin = np.sum(
        m * np.stack([x[..., i] * v[..., j] - x[..., j] * v[..., i] for i, j in turn], -1), axis=1
    )
    expected = {
        "E": shown.energy,
        "|E / E0 - 1|": np.abs(shown.energy / shown.energy[0] - 1),
        "|P - P0|": np.linalg.norm(p - p[0], axis=1),
        "|L - L0|": np.linalg.norm(spin - spin[0], axis=1),
        "dt": shown.dt,
    }
    scene.show(12)
    assert [line.axes.get_ylabel() for _, _, line, _ in scene.curves] == list(expected)
    for (_, _, line, dot), values in zip(scene.curves, expected.values(), strict=True):
        along, drawn = line.get_data()
        np.testing.assert_array_equal(along, shown.time[:13])
        first = 0 if line.axes.get_ylabel() == "E" else 1  # no error of the state it starts from
        np.testing.assert_allclose(drawn[first:], values[first:13], rtol=1e-12)
        np.testing.assert_allclose(dot.get_data(), [[shown.time[12]], [values[12]]], rtol=1e-12)
        assert line.axes.get_yscale() == ("linear" if first == 0 else "log")


@pytest.mark.parametrize(("bodies", "dim"), [(3, 2), (3, 3), (2, 1), (FEW_BODIES + 1, 3)])
def test_bodies_are_where_they_are_and_their_tails_where_they_were(bodies, dim):
    shown = film(bodies, dim)
    scene = Scene(shown, 20)
    scene.show(7)
    where = (
        shown.position
        if dim > 1
        else np.stack(
            [np.broadcast_to(shown.time[:, None], (20, bodies)), shown.position[..., 0]], axis=-1
        )
    )
    for body, dot in enumerate(scene.dots):
        drawn = dot.get_data_3d() if dim == 3 else dot.get_data()
        np.testing.assert_array_equal(np.ravel(drawn), where[7, body])
    pieces = scene._pieces(7).reshape(bodies, -1, 2, where.shape[2])
    np.testing.assert_array_equal(pieces[:, 1:, 0], pieces[:, :-1, 1])
    np.testing.assert_array_equal(pieces[:, 0, 0], where[0])
    np.testing.assert_array_equal(pieces[:, -1, 1], where[7])
    visited = {tuple(point) for point in pieces[0, :, 1]}
    every = {tuple(point) for point in where[:8, 0]}
    assert visited == every or (visited < every and bodies > FEW_BODIES)
    opacity = scene.tail.get_colors()[:, 3].reshape(bodies, -1)
    assert np.all(np.diff(opacity, axis=1) > 0)
    few = {dot.get_color() for dot in scene.dots}
    assert few == (set(BODY_COLOURS[:bodies]) if bodies <= FEW_BODIES else {BLUE})


def test_limits_hold_all_states_and_stay():
    shown = film()
    scene = Scene(shown, 20)
    (first, last) = scene.draw(np.array([0, 19]), 20)
    assert first.shape == last.shape == (120, 213, 3)
    assert not np.array_equal(first, last)
    (x0, x1), (y0, y1) = scene.bodies.get_xlim(), scene.bodies.get_ylim()
    low, high = shown.position.min(axis=(0, 1)), shown.position.max(axis=(0, 1))
    assert x0 < low[0] < high[0] < x1 and y0 < low[1] < high[1] < y1
    box = scene.bodies.get_window_extent()
    assert (x1 - x0) / box.width == pytest.approx((y1 - y0) / box.height)


def test_a_path_that_starts_anew_is_measured_from_there():
    shown = film(restart=9, epochs=np.arange(20))
    np.testing.assert_array_equal(shown.origin, np.repeat([0, 9], [9, 11]))
    scene = Scene(shown, 20)
    along, values, line, _ = scene.curves[1]
    assert line.axes.figure.axes[-1].get_xlabel() == "epochs of training"
    np.testing.assert_array_equal(along, shown.epochs)
    expected = np.abs(shown.energy[9:] / shown.energy[9] - 1)
    np.testing.assert_allclose(values[10:], expected[1:], rtol=1e-12)
    assert np.isnan(values[[0, 9]]).all()
    tail = scene._pieces(11).reshape(3, -1, 2, 2)[0, :, 1]
    assert {tuple(point) for point in tail} == {tuple(point) for point in shown.position[9:12, 0]}


def test_bodies_are_named_in_their_colours_and_energies_keep_to_their_axis():
    names, shown = ("Sun", "Earth", "Moon"), film()
    energy = -4.3553e-3 * (1 + 1e-8 * np.sin(shown.time))
    scene = Scene(replace(shown, names=names, energy=energy), 20)
    scene.figure.draw_without_rendering()
    legend = scene.bodies.get_legend()
    assert tuple(text.get_text() for text in legend.get_texts()) == names
    drawn = [dot.get_color() for dot in scene.dots]
    assert [handle.get_color() for handle in legend.legend_handles] == drawn
    axes = scene.curves[0][2].axes
    ticks = [tick.label1.get_window_extent().x0 for tick in axes.yaxis.get_major_ticks()]
    assert axes.yaxis.label.get_window_extent().x1 < min(ticks)


@pytest.mark.parametrize("states", [1, 2])
def test_a_film_of_hardly_a_state_is_drawn(states):
    shown = film(states=states)
    assert len(list(Scene(shown, states).draw(np.arange(states), 10))) == states


def test_a_film_ends_where_the_rollout_blows_up():
    whole = film()
    energy = np.where(np.arange(20) < 12, whole.energy, np.inf)
    path = Trajectory(whole.time, whole.dt[1:], whole.position, whole.velocity, energy)
    shown = film_of(path, whole.mass)
    assert len(shown.time) == len(shown.dt) == len(shown.position) == 12
    np.testing.assert_array_equal(shown.dt[1:], whole.dt[1:12])


# --- simulate ------------------------------------------------------------------------------------


def test_simulate_makes_a_movie_and_nothing_else_changes():
    plain = call(SIMULATE, "--output plain.npz")
    outcome = call(SIMULATE, "--output films/path.npz", SMALL)
    assert (outcome.code, outcome.warned) == (0, "")
    assert outcome.reports() == plain.reports()
    assert "movie of 31 frames in films/path.mp4" in outcome.err
    assert frames_of("films/path.mp4") == 31
    with np.load("plain.npz") as before, np.load("films/path.npz") as after:
        for name in before.files:
            np.testing.assert_array_equal(before[name], after[name])
    assert sorted(path.name for path in Path("films").iterdir()) == ["path.mp4", "path.npz"]


def test_frames_are_thinned_evenly_into_a_gif():
    flags = "--movie-format gif --movie-max-frames 7 --movie-dir films --movie-fps 20"
    outcome = call(SIMULATE, SMALL, flags)
    assert outcome.code == 0
    assert [path.name for path in Path("films").iterdir()] == ["simulation.gif"]
    with Image.open("films/simulation.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (7, (213, 120), 50)


def test_of_several_systems_the_first_is_shown_and_all_are_reported():
    flags = "--multi-orbit-sim --num-orbits 2 --seed 1 --Nperiod 0 --steps 5"
    outcome = call("simulate --no-compilation-cache", flags, SMALL)
    assert [report["steps"] for report in outcome.reports()] == [5, 5]
    assert frames_of("simulation.mp4") == 6


# --- train ---------------------------------------------------------------------------------------


def films_of(monkeypatch, *argv):
    """The outcome of a command, and the films it would make movies of."""
    films = []

    def keep(film, path, options, quiet):
        films.append((film, path))

    monkeypatch.setattr(training_movie, "make_movie", keep)
    return call(*argv), films


def test_training_is_the_same_with_a_movie_whose_states_are_those_it_accepted(monkeypatch):
    train = TRAIN.replace("--num-particles 3", "--multi-orbit --checkpoint-interval 1 --epochs 3")
    train = train.replace("--num-orbits 1", "--num-orbits 2 --fresh-every 2")
    assert call(train, "--save-name plain").code == 0
    outcome, ((shown, path),) = films_of(monkeypatch, train, "--save-name shown --movie")
    assert outcome.code == 0, outcome.err
    assert path == Path("checkpoints/shown/shown-training.mp4")
    # The second epoch ends a path, and the state that begins the next is shown too.
    np.testing.assert_array_equal(shown.epochs, [0, 1, 2, 2, 3])
    begins = np.array([True, False, False, True, False])
    np.testing.assert_array_equal(shown.time == 0, begins)
    np.testing.assert_array_equal(np.isnan(shown.dt), begins)
    np.testing.assert_array_equal(shown.origin, [0, 0, 0, 3, 3])
    for epoch, index in ((0, 1), (1, 3), (2, 4)):
        runs = (Path("checkpoints/plain"), Path("checkpoints/shown"))
        one, other = (checkpoints.load(run, epoch) for run in runs)
        jax.tree.map(np.testing.assert_array_equal, one.arrays, other.arrays)
        p = one.arrays["state"]["systems"]["particles"]
        for name in ("position", "velocity", "time"):
            np.testing.assert_array_equal(getattr(shown, name)[index], p[name][0])
        assert shown.energy[index] == one.arrays["state"]["systems"]["energy"][0]


class Following(Objective):
    follows_paths = True

    def path(self, state):
        return state.now


def test_a_resumed_run_has_the_movie_of_its_part(monkeypatch):
    films = []
    monkeypatch.setattr(training_movie, "make_movie", lambda *film: films.append(film))
    bodies = film(states=1)
    fields = {name: getattr(bodies, name)[:1] for name in ("time", "dt", "position", "velocity")}
    now = (bodies.mass[None], *(fields[name] for name in fields), bodies.energy)
    state = SimpleNamespace(now=now, epoch=7)
    config = Config(movie=True, save_name="run", movie_dir="films")
    open_training_movie(config, Path("run"), Following(), state, is_resumed=True).make()
    ((shown, where, *_),) = films
    assert where == Path("films/run-training-from-7.mp4")
    np.testing.assert_array_equal(shown.position, bodies.position)


def test_window_training_says_that_it_has_no_movie():
    request = parse("train", ["--objective", "window", "--movie", "--num-orbits", "1"])
    with pytest.warns(UserWarning, match="window training follows no path"):
        train_job._warn_of_training(request, Objective())
    movie = open_training_movie(
        request.config, Path("run"), Objective(), object(), is_resumed=False
    )
    movie.add(object())
    movie.make()
    assert not Path("run").exists()


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--movie-dpi 1537", "--movie-dpi 1537: must be <= 1536"),
        ("--movie-fps 1001", "--movie-fps 1001: must be <= 1000"),
        ("--movie-dir file", "cannot be written (Not a directory)"),
        ("--movie-format avi", "--movie-format avi: must be one of mp4, gif"),
    ],
)
def test_a_movie_that_cannot_be_made_is_refused_before_the_work(flags, words):
    Path("file").write_text("")
    for command in (SIMULATE, TRAIN, TRAIN.replace("train", "both", 1)):
        assert_refused(call(command, "--movie", flags), words)
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_missing_packages_are_told_of_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    for command in (SIMULATE, TRAIN):
        outcome = call(command, "--movie --movie-dir films")
        assert_refused(outcome, "pip install 'jaxstepper[plot]'", "--movie-format gif")
    check_movie(Path("path.gif"), MovieOptions())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(call(SIMULATE, "--movie --movie-format gif"), "pictures need matplotlib")
    assert not list(Path().iterdir())


def test_a_movie_that_fails_takes_nothing_with_it(monkeypatch):
    real = imageio_ffmpeg.get_ffmpeg_exe()
    Path("simulation.mp4").write_text("of before")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/bin/false")
    outcome = call(SIMULATE, SMALL)
    assert outcome.code == 2
    assert json.loads(outcome.out)["steps"] == 30
    assert "simulation.mp4: the movie cannot be written" in outcome.err
    assert [path.read_text() for path in Path().iterdir()] == ["of before"]
    assert Path(real).is_file()
