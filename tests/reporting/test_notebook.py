"""What a notebook shows: bars that change in place, states in a line, the precision once."""

import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics import particles
from jaxstepper.reporting import notebook_bars
from jaxstepper.reporting.notebook_bars import NotebookBars, is_notebook
from jaxstepper.training.run import Result

PAIR = js.kepler_pair(0.5, total_mass=1)
FORCE = js.Gravity().acceleration


class Output(list):
    """What a cell shows, one entry each time that it changes."""

    def update(self, content, raw):
        assert raw
        self.append(content["text/plain"])


@pytest.fixture
def cell(monkeypatch):
    """The output of a cell, in a notebook."""
    output = Output()

    def display(content, raw, display_id):
        assert display_id and not output
        output.update(content, raw)
        return output

    class ZMQInteractiveShell:
        pass

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = ZMQInteractiveShell
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setattr(notebook_bars, "REFRESHES_PER_SECOND", np.inf)
    return output


def test_a_bar_of_a_notebook_changes_in_place_and_goes(cell):
    with NotebookBars() as bars:
        assert bars.are_shown
        bars.show("epochs", 3, 12, "dt 1e-3")
        assert cell[-1] == "epochs " + "█" * 8 + "░" * 22 + " 3/12  dt 1e-3"
        bars.show_share("rollout", 1.0)
        assert cell[-1].splitlines()[1] == "rollout " + "█" * 30 + " 100%"
        bars.hide("rollout")
        bars.show("epochs", 4, None)
        assert cell[-1] == "epochs  4"
    assert cell[-1] == ""


def test_training_shows_its_epochs_in_a_notebook_alone(cell, monkeypatch):
    seen = []

    def run(objective, state, epochs, **calls):
        seen.append(list(cell))
        return Result(0, 0.0, {}, state, "", [])

    monkeypatch.setattr("jaxstepper.library.run", run)
    assert is_notebook()
    js.train([PAIR], epochs=1, window_steps=8)
    assert len(seen) == 1 and "epochs" in seen[0][-1] and "0/1" in seen[0][-1]
    cell.clear()
    js.train([PAIR], epochs=1, window_steps=8, progress=False)
    assert cell == []
    monkeypatch.delitem(sys.modules, "IPython")
    assert not is_notebook()


def test_particles_are_a_line():
    pair = js.from_table(PAIR, FORCE)
    assert repr(pair) == "Particles(2 bodies in 2D, float64, time 0)"
    assert repr(jax.vmap(lambda _: pair)(jnp.arange(5))) == (
        "Particles(5 systems of 2 bodies in 2D, float64)"
    )
    said = []
    jax.jit(lambda p: said.append(repr(p)))(pair)
    assert said == ["Particles(2 bodies in 2D, float64)"]
    axes = object.__new__(js.Particles)  # as in `in_axes`
    object.__setattr__(axes, "position", 0)
    assert "Particles object" in repr(axes)


def test_a_batch_of_tables_is_a_batch_of_states():
    tables = np.stack([js.kepler_pair(e, total_mass=1) for e in (0.1, 0.5, 0.9)])
    batch = js.from_table(tables, FORCE, time=np.arange(3.0))
    for i, table in enumerate(tables):
        one = js.from_table(table, FORCE, time=float(i))
        for many, single in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(many[i], single, rtol=1e-15)


@pytest.fixture(scope="module")
def recorded():
    """A pair, a tenth of the way round, and its trajectory."""
    pair = js.from_table(PAIR, FORCE)
    return pair, js.record(js.fixed(0.1), js.Gravity(), pair, js.Limits(steps=6))[1]


def test_a_trajectory_is_a_line_and_a_picture(recorded):
    path = recorded[1]
    assert repr(path) == "Trajectory(7 states of 2 bodies in 2D, time 0 to 0.6)"
    orbits = path.plot("pair").axes[0]
    ends = [line.get_xydata()[-1] for line in orbits.get_lines() if len(line.get_xydata()) > 1]
    np.testing.assert_array_equal(ends, path.position[-1])


def test_a_trajectory_becomes_tables(recorded):
    path = recorded[1]
    dataset = path.to_xarray()
    second = dataset.velocity.sel(body=1, axis="y").isel(time=3)
    assert float(second) == path.velocity[3, 1, 1]
    assert float(dataset.dt[2]) == path.dt[2] and np.isnan(dataset.dt[-1])
    table = path.to_pandas()
    assert list(table.columns) == ["time", "body", "x", "y", "vx", "vy"]
    row = table[(table.time == path.time[3]) & (table.body == 1)]
    assert row.values.tolist() == [[path.time[3], 1, *path.position[3, 1], *path.velocity[3, 1]]]


@pytest.mark.parametrize(("module", "method"), [("xarray", "to_xarray"), ("pandas", "to_pandas")])
def test_a_missing_package_is_told(module, method, recorded, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"pip install {module}"):
        getattr(recorded[1], method)()


def test_record_says_why_it_takes_no_batch(recorded):
    def rolled(particles):
        return js.record(js.fixed(0.1), js.Gravity(), particles, js.Limits(steps=3))

    batch = jax.tree.map(lambda x: jnp.stack([x, x]), recorded[0])
    with pytest.raises(UserError, match="once for each system, or run_until"):
        jax.vmap(rolled)(batch)
    with pytest.raises(UserError, match="not a batch of 2"):
        rolled(batch)


@pytest.mark.parametrize("shape", [(5,), (2, 4), (3, 2, 6), (1, 1, 2, 5)])
def test_what_is_no_table_is_refused(shape):
    with pytest.raises(UserError, match=r"must be \[N, 1 \+ 2 D\]"):
        js.from_table(np.ones(shape), FORCE)


def test_single_precision_is_said_once(monkeypatch):
    monkeypatch.setattr(particles, "_say_once", particles._say_once.__wrapped__)
    with jax.enable_x64(False):
        with pytest.warns(UserWarning, match="jax_enable_x64"):
            js.from_table(PAIR, FORCE)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            js.from_table(PAIR, FORCE, dtype=jnp.float32)
