"""Pictures: what their lines, bands and labels say, against the data they are drawn from."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import assert_refused, call

from jaxstepper.commands.plot import read_rollout
from jaxstepper.errors import UserError
from jaxstepper.pictures import training_picture as plots
from jaxstepper.pictures.figures import FEW_BODIES, evenly
from jaxstepper.pictures.rollout_picture import closest_separation, rollout_figure
from jaxstepper.runs import checkpoints, folders
from jaxstepper.settings.config import Config
from jaxstepper.settings.stored import to_dict

PNG = b"\x89PNG"
BAND = {"E_lower": 1e-7, "E_upper": 3e-5, "energy_threshold": 4e-4}
EPOCHS = 6


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def two_phase_metrics(epoch):
    return {
        "epoch": epoch,
        "mean_retrain_iterations": float(epoch == 0),
        "max_retrain_iterations": 5.0 * (epoch == 0),
        "mean_energy_error": 10.0 ** (-4 - epoch / 3),
        "min_energy_error": 10.0 ** (-5 - epoch / 3),
        "max_energy_error": 10.0 ** (-3.5 - epoch / 3),
        "min_dt": 1e-3 / (1 + epoch),
        "max_dt": 1e-2 / (1 + epoch),
        "max_retrain_rel_dE": 1e-3 * (epoch == 0),
        "iterations": 7 - epoch,
        "final_pass_rate": 0.5 + epoch / 10,
        "skipped": epoch == 1,
    }


def window_metrics(epoch):
    return {
        "epoch": epoch,
        "loss": 1.0 - epoch / 10,
        "relative_work": 0.9 - epoch / 100,
        "error_ratio": 1.2,
        "covered": 0.99,
        "skipped": 32 * (epoch == 3),
    }


def run_of(monkeypatch, metrics, **config):
    """A run's folder with these metrics; its checkpoint is only a config."""
    run = Path("run")
    run.mkdir()
    lines = [json.dumps(metrics(epoch)) for epoch in range(EPOCHS)]
    (run / folders.METRICS_FILE).write_text("\n".join([*lines, '{"epoch": 99, "mean']))
    found = checkpoints.Checkpoint(run / "5", 5, to_dict(Config(**config)), {}, {}, {})
    monkeypatch.setattr(checkpoints, "load", lambda path: found)
    return run


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def assert_draws(axes, label, values):
    epochs = np.arange(EPOCHS)
    np.testing.assert_allclose(lines_of(axes)[label], np.stack([epochs, values], axis=1))


def is_drawn(axes):
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


# --- training ------------------------------------------------------------------------------------


def test_two_phase_training_is_drawn_against_its_band(monkeypatch):
    run = run_of(monkeypatch, two_phase_metrics, **BAND)
    figure = plots.training_figure(run)
    errors, iterations, steps, rates = figure.axes
    each = [two_phase_metrics(epoch) for epoch in range(EPOCHS)]

    def values(name):
        return np.array([metrics[name] for metrics in each], float)

    assert_draws(errors, "accepted steps", values("mean_energy_error"))
    (band,) = [patch for patch in errors.patches if patch.get_label() == "band"]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((1e-7, 3e-5))
    np.testing.assert_array_equal(lines_of(errors)["accepted below"][:, 1], 4e-4)
    assert_draws(errors, "worst attempt", [1e-3, *[np.nan] * 5])
    around = errors.collections[0].get_paths()[0].get_extents()
    assert (around.y0, around.y1) == pytest.approx(
        (values("min_energy_error").min(), values("max_energy_error").max())
    )
    assert_draws(iterations, "largest of a step", values("max_retrain_iterations"))
    assert_draws(iterations, "retraining: mean", values("mean_retrain_iterations"))
    assert_draws(iterations, "phase 2", [7, np.nan, 5, 4, 3, 2])
    assert_draws(steps, "smallest", values("min_dt"))
    assert_draws(steps, "largest", values("max_dt"))
    assert_draws(rates, "accepted in phase 1", [50, 100, 100, 100, 100, 100])
    assert_draws(rates, "pass after phase 2", [50, np.nan, 70, 80, 90, 100])
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "symlog", "log", "linear"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "epoch", "epoch"]
    assert all("G = 1" in axes.get_ylabel() for axes in (steps,))
    assert set(is_drawn(errors)) == {"band", "accepted below", "accepted steps", "worst attempt"}


def test_window_training_is_drawn_against_free_fall_and_the_tolerance(monkeypatch):
    run = run_of(monkeypatch, window_metrics, objective="window", imitation_epochs=2)
    losses, work, errors, windows = plots.training_figure(run).axes
    none = [np.nan] * 2
    assert_draws(losses, "of imitation", [1.0, 0.9, *[np.nan] * 4])
    assert_draws(losses, "of windows", [*none, 0.8, 0.7, 0.6, 0.5])
    assert_draws(work, "this rule", [*none, 0.88, 0.87, 0.86, 0.85])
    assert_draws(errors, "this rule", [*none, 1.2, 1.2, 1.2, 1.2])
    for axes in (work, errors):
        (reference,) = set(lines_of(axes)) - {"this rule"}
        np.testing.assert_array_equal(lines_of(axes)[reference][:, 1], 1)
    # Of 32 windows in each of 20 iterations.
    assert_draws(windows, "skipped, gradient not finite", [0, 0, 0, 5, 0, 0])
    assert_draws(windows, "covered", [*none, 99, 99, 99, 99])


def test_a_run_is_drawn_up_to_an_epoch(monkeypatch):
    run = run_of(monkeypatch, two_phase_metrics)
    figure = plots.training_figure(run, last_epoch=2)
    assert lines_of(figure.axes[2])["smallest"][-1, 0] == 2
    with pytest.raises(UserError, match="holds no metrics"):
        plots.training_figure(run, last_epoch=-1)


def test_plot_draws_a_real_run_by_its_name_and_refuses_one_without_metrics(sandbox_source):
    import sandbox

    sandbox.copy(sandbox_source, Path())
    assert call("plot kept").out == "checkpoints/kept/training.png\n"
    assert Path("checkpoints/kept/training.png").read_bytes().startswith(PNG)
    assert call("plot checkpoints/kept/0 --out epoch.svg").out == "epoch.svg\n"
    metrics = Path("checkpoints/kept/metrics.jsonl")
    metrics.write_text("[1]\n{}\nnull\n")
    assert_refused(call("plot kept --out none.png"), "holds no metrics of an epoch")
    metrics.unlink()  # an imported run has none
    assert_refused(call("plot kept --out none.png"), f"{metrics}: cannot be read", "import does")
    assert not Path("none.png").exists()


# --- rollouts ------------------------------------------------------------------------------------


def rollout(bodies, dim, steps=50, seed=0):
    rng = np.random.default_rng(seed)
    dt = 10.0 ** rng.uniform(-3, -1, steps)
    return {
        "time": np.concatenate([[0.0], np.cumsum(dt)]),
        "dt": dt,
        "position": np.cumsum(rng.normal(size=(steps + 1, bodies, dim)), axis=0),
        "energy": -2.0 * (1 + 1e-6 * rng.normal(size=steps + 1)),
    }


def panels_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_a_rollout_is_drawn_as_it_was_recorded():
    path = rollout(3, 2)
    axes = panels_of(rollout_figure(path, "file"))
    time, energy = path["time"], path["energy"]
    lines = axes["orbit"].get_lines()
    for body in range(3):
        np.testing.assert_array_equal(lines[2 * body].get_xydata(), path["position"][:, body])
        np.testing.assert_array_equal(
            lines[2 * body + 1].get_xydata()[0], path["position"][-1, body]
        )
    (line,) = axes["dt"].get_lines()
    expected = np.stack([time[:-1], path["dt"]], axis=1)[:-1]  # the last may have been cut
    np.testing.assert_array_equal(line.get_xydata()[:-1], expected)
    (line,) = axes["error"].get_lines()
    np.testing.assert_allclose(line.get_ydata(), np.abs(energy[1:] / energy[0] - 1), rtol=1e-9)
    dots, guide = axes["separation"].get_lines()
    pairs = [(0, 1), (0, 2), (1, 2)]
    x = path["position"]
    r = np.min([np.linalg.norm(x[:, i] - x[:, j], axis=1) for i, j in pairs], axis=0)
    np.testing.assert_allclose(dots.get_xydata(), np.stack([r[:-2], path["dt"][:-1]], axis=1))
    slope = np.diff(np.log(guide.get_xydata()), axis=0)[0]
    assert slope[1] / slope[0] == pytest.approx(1.5)
    (scatter,) = axes["steps"].collections
    np.testing.assert_array_equal(scatter.get_array().reshape(-1, 3)[:-1, 1], path["dt"][:-1])
    np.testing.assert_array_equal(scatter.get_offsets()[1::3], path["position"][:-1, 1])
    for name in ("dt", "error", "separation"):
        assert axes[name].get_yscale() == "log"
        assert axes[name].get_ylabel() and axes[name].get_xlabel()
    assert {"dt (G = 1)", "x (G = 1)"} <= {axes["dt"].get_ylabel(), axes["orbit"].get_xlabel()}
    assert axes["orbit"].get_aspect() == axes["steps"].get_aspect() == 1


@pytest.mark.parametrize(("bodies", "dim"), [(2, 1), (2, 3), (FEW_BODIES + 1, 3), (3, 4)])
def test_every_dimension_and_number_of_bodies_is_laid_out(bodies, dim, tmp_path):
    # A warning of matplotlib, such as one of a layout that failed, is an error in these tests.
    path = rollout(bodies, dim)
    np.savez("path.npz", **path)
    assert call("plot path.npz").out == "path.png\n"
    assert (tmp_path / "path.png").read_bytes().startswith(PNG)
    axes = panels_of(rollout_figure(path))
    assert ("steps" in axes) == (bodies <= FEW_BODIES)
    line = axes["orbit"].get_lines()[0]
    if dim == 3:
        np.testing.assert_array_equal(np.transpose(line.get_data_3d()), path["position"][:, 0])
    elif dim == 1:
        expected = np.stack([path["time"], path["position"][:, 0, 0]], axis=1)
        np.testing.assert_array_equal(line.get_xydata(), expected)
    else:
        np.testing.assert_array_equal(line.get_xydata(), path["position"][:, 0, :2])


@pytest.mark.parametrize(("thin", "names"), [(2, "xy"), (1, "xz"), (0, "yz")])
def test_bodies_in_a_plane_are_drawn_in_it(thin, names):
    path = rollout(3, 3)
    # As far as the orbits of the planets leave that of the earth.
    path["position"][:, :, thin] *= 0.04
    axes = panels_of(rollout_figure(path))["orbit"]
    assert axes.name == "rectilinear"
    assert [axes.get_xlabel()[0], axes.get_ylabel()[0]] == list(names)
    plane = ["xyz".index(name) for name in names]
    np.testing.assert_array_equal(axes.get_lines()[0].get_xydata(), path["position"][:, 0, plane])


def test_names_stand_apart_from_the_orbits_each_in_a_colour_of_its_own():
    names = [f"body {k}" for k in range(FEW_BODIES)]
    figure = rollout_figure(rollout(FEW_BODIES, 2), labels=names)
    figure.draw_without_rendering()
    axes = panels_of(figure)["orbit"]
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == names
    assert len({handle.get_color() for handle in legend.legend_handles}) == FEW_BODIES
    label = axes.xaxis.label.get_window_extent()
    assert legend.get_window_extent().y1 <= label.y0 < label.y1 <= axes.bbox.y0
    assert "51 states" in figure.get_suptitle()


@pytest.mark.parametrize(
    "changes",
    [
        {"dt": np.full(50, 0.1)},
        {"energy": np.zeros(51)},
        {"energy": np.r_[-1.0, np.full(50, np.nan)]},
        {"position": np.ones((51, 2, 2))},
        {"position": np.concatenate([np.ones((1, 2, 2)), np.full((50, 2, 2), np.inf)])},
    ],
)
def test_rollouts_that_stand_still_or_blow_up_are_drawn(changes, tmp_path):
    np.savez("path.npz", **{**rollout(2, 2), **changes})
    outcome = call("plot path.npz")
    assert (outcome.out, outcome.warned) == ("path.png\n", "")


def test_one_of_several_rollouts_is_chosen_and_freed_of_its_padding():
    long, short = rollout(2, 2), rollout(2, 2, steps=20, seed=1)
    padded = {name: np.stack([array, np.full(array.shape, np.nan)]) for name, array in long.items()}
    for name, array in short.items():
        padded[name][1, : len(array)] = array
    np.savez("many.npz", **padded)
    chosen = read_rollout("many.npz", 1)
    for name, array in short.items():
        np.testing.assert_array_equal(chosen[name], array)
    outcome = call("plot many.npz")
    assert outcome.out == "many.png\n"
    assert "holds 2 rollouts; drawn is 0" in outcome.err
    assert call("plot many.npz --system 1").err == ""
    assert_refused(call("plot many.npz --system 2"), "--system 2: many.npz holds 2")


def test_states_are_taken_evenly_and_distances_are_the_smallest():
    np.testing.assert_array_equal(evenly(5, 9), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(evenly(9, 3), [0, 4, 8])
    corners = np.array([[[0.0, 0], [3, 4], [0, 1]], [[0, 0], [6, 8], [60, 80]]])
    np.testing.assert_array_equal(closest_separation(corners), [1, 10])


def test_a_missing_matplotlib_is_one_line(monkeypatch):
    np.savez("path.npz", **rollout(2, 2))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert_refused(call("plot path.npz"), "pip install 'jaxstepper[plot]'")
