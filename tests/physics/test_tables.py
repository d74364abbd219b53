"""Files of tables: what comes back, and what they are refused for."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics import initial_conditions as ic
from jaxstepper.physics.tables import load_table, save_table, validate_table


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".dat", ".csv"])
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_saved_table_comes_back_exactly(tmp_path, suffix, dim):
    table = ic.random_table(1, 6, dim, mass=1 / 3, pos_scale=1e-7, vel_scale=1e9)
    path = tmp_path / f"table{suffix}"
    save_table(path, table)
    loaded = load_table(str(path), dim=dim)
    assert loaded.dtype == np.float64
    np.testing.assert_array_equal(loaded, table)


def test_saved_text_is_readable_by_loadtxt_and_says_what_its_columns_are(tmp_path):
    path = tmp_path / "eight.txt"
    save_table(path, ic.figure_eight(3))
    assert path.read_text().splitlines()[0] == "# mass x0 x1 x2 v0 v1 v2"
    np.testing.assert_array_equal(np.loadtxt(path), ic.figure_eight(3))


def test_a_batch_is_saved_as_npy_only(tmp_path):
    batch = ic.kepler_batch(0, 3, 0.1, 0.9, 1.0, 1.0, 1.0, 2)
    save_table(tmp_path / "batch.npy", batch)
    np.testing.assert_array_equal(load_table(tmp_path / "batch.npy"), batch)
    with pytest.raises(UserError, match="batch"):
        save_table(tmp_path / "batch.txt", batch)


@pytest.mark.parametrize("name", ["table.xyz", "table", "missing/table.txt", "missing/table.npy"])
def test_tables_are_not_saved_to_unknown_suffixes_or_places(tmp_path, name):
    with pytest.raises(UserError, match="table") as caught:
        save_table(tmp_path / name, ic.figure_eight())
    assert "\n" not in str(caught.value)


def test_text_takes_comments_blank_lines_and_any_suffix(tmp_path):
    path = tmp_path / "pair.ic"
    path.write_text("# m x y vx vy\n\n1 -0.5 0 0 1e0  # first\n\t2 +.5 0 0 -1\n")
    expected = [[1, -0.5, 0, 0, 1], [2, 0.5, 0, 0, -1]]
    np.testing.assert_array_equal(load_table(path), expected)


@pytest.mark.parametrize("header", ["", "mass,x,y,vx,vy\n", "# Kepler\nm, x_0, x_1, v_0, v_1\n"])
def test_csv_has_commas_and_perhaps_a_line_of_names(tmp_path, header):
    path = tmp_path / "pair.csv"
    path.write_text(f"{header}\n1,-0.5,0, 0,1e0\n2,+.5,0,0,-1 # second\n")
    expected = [[1, -0.5, 0, 0, 1], [2, 0.5, 0, 0, -1]]
    np.testing.assert_array_equal(load_table(path), expected)
    path.write_text(f"{header}1,-0.5,0,,1\n2,.5,0,0,-1\n")
    with pytest.raises(UserError, match=r"line \d, column 4.*: is empty"):
        load_table(path)
    path.write_text("nan,nan,nan\n1,-0.5,0\n2,1,0")
    with pytest.raises(UserError, match="nan"):
        load_table(path)
    path.write_text("1,-0.5,0,0,1\nmass,x,y,vx,vy\n")
    with pytest.raises(UserError, match="line 2, column 1: 'mass' is not a number"):
        load_table(path)


def test_integer_and_float32_npy_become_float64(tmp_path):
    for dtype in (np.int64, np.float32):
        np.save(tmp_path / "pair.npy", np.array([[1, 0, 1], [2, 3, 4]], dtype))
        assert load_table(tmp_path / "pair.npy").dtype == np.float64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n\n", "is empty"),
        ("1 0 0 0 0\n1 1 0 zero 0\n", "line 2, column 4: 'zero' is not a number"),
        ("1,0 0,0 0,0\n1,0 1,0 0,0\n", "line 1, column 2"),
        ("1 0 0 0 0\n1_0 1 0 0 0\n", "line 2, column 1"),
        ("1 0 0 0 0\n# comment\n1 1 0 0\n", "line 3 has 4 columns, those above 5"),
        ("1 0 0 0\n1 1 0 0\n", "4 columns"),
        ("1\n1\n", "1 columns"),
        ("1 0 0 0 0\n", "only one body"),
        ("1 0 0 0 0\n1 nan 0 0 0\n", "body 1 (counted from 0) has x0 = nan"),
        ("1 0 0 0 inf\n1 1 0 0 0\n", "body 0 (counted from 0) has v1 = inf"),
        ("0 0 0 0 0\n0 1 0 0 0\n", "no body has a mass > 0"),
        ("-1 0 0 0 0\n1 1 0 0 0\n", "body 0 (counted from 0) has mass = -1.0"),
    ],
)
def test_faulty_text_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "table.txt"
    path.write_text(text)
    assert_refused(path, said)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.ones(5), "shape (5,)"),
        (np.float64(1), "shape ()"),
        (np.ones((1, 2, 2, 5)), "shape (1, 2, 2, 5)"),
        (np.ones((0, 5)), "shape (0, 5)"),
        (np.ones((0, 2, 5)), "shape (0, 2, 5)"),
        (np.ones((3, 4)), "4 columns"),
        (np.ones((3, 1, 5)), "only one body"),
        (np.ones((2, 5), complex), "complex128"),
        (np.ones((2, 5), bool), "bool"),
        (np.full((2, 5), "1"), "<U1"),
        (np.array([[[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [1, 1, np.nan]]]), "system 1, body 1"),
        (np.array([[[1, 0, 0], [1, 1, 0]], [[0.0, 0, 0], [0, 1, 0]]]), "system 1: no body"),
    ],
)
def test_faulty_arrays_are_refused_in_one_line(tmp_path, array, said):
    path = tmp_path / "table.npy"
    np.save(path, array)
    assert_refused(path, said)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    trap, sprung = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    raw, objects = tmp_path / "raw.npy", tmp_path / "objects.npy"
    raw.write_bytes(pickle.dumps(trap))
    np.save(objects, np.array([[trap] * 5] * 2, dtype=object), allow_pickle=True)
    assert_refused(raw, "not a plain .npy array")
    assert_refused(objects, "not a plain .npy array")
    assert not sprung.exists()


def test_unreadable_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "whole.npy", ic.figure_eight())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-8])
    with (tmp_path / "zip.npy").open("wb") as file:
        np.savez(file, table=ic.figure_eight())
    (tmp_path / "binary.txt").write_bytes(b"\x80\x03\x00\x01")
    (tmp_path / "folder.npy").mkdir()
    assert_refused(tmp_path / "missing.txt", "No such file")
    assert_refused(tmp_path / "missing.npy", "No such file")
    assert_refused(tmp_path, "directory")
    assert_refused(tmp_path / "folder.npy", "directory")
    assert_refused(tmp_path / "empty.npy", "empty")
    assert_refused(tmp_path / "cut.npy", "damaged")
    assert_refused(tmp_path / "zip.npy", "not a plain .npy array")
    assert_refused(tmp_path / "binary.txt", "is not text")


def assert_refused(path, said):
    with pytest.raises(UserError) as caught:
        load_table(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "\n" not in message


# --- validate_table -------------------------------------------------------------------------


def test_coincident_bodies_need_a_softening(tmp_path):
    table = ic.random_table(0, 6, 2, 1.0, 1.0, 1.0)
    table[4, 1:3] = table[1, 1:3]
    save_table(tmp_path / "table.txt", table)
    loaded = load_table(tmp_path / "table.txt")
    np.testing.assert_array_equal(validate_table(loaded, "table", softening=0.1), table)
    with pytest.raises(UserError, match=r"^table: body 1 .* and body 4 are in the same place"):
        validate_table(loaded, "table")
    batch = np.stack([ic.random_table(1, 6, 2, 1.0, 1.0, 1.0), table])
    with pytest.raises(UserError, match="system 1, body 1 .* and body 4 are in the same place"):
        validate_table(batch, "table")


def test_coincidence_takes_all_axes_and_ignores_the_sign_of_zero():
    apart = np.array([[1, 0, 1, 0, 0], [1, 0, 2, 0, 0], [1, 1, 1, 0, 0]], float)
    np.testing.assert_array_equal(validate_table(apart, "table"), apart)
    together = np.array([[1, 0.0, 1, 0, 0], [1, 5, 5, 0, 0], [1, -0.0, 1, 0, 0]])
    with pytest.raises(UserError, match="body 0 .* and body 2"):
        validate_table(together, "table")


def test_expected_sizes_are_checked():
    table = ic.figure_eight(2)
    validate_table(table, "table", dim=2, num_particles=3)
    with pytest.raises(UserError, match="has 2 dimensions, not 3; set dim = 2"):
        validate_table(table, "table", dim=3)
    with pytest.raises(UserError, match="has 3 bodies, not 2; set num_particles = 3"):
        validate_table(table, "table", num_particles=2)


@pytest.mark.parametrize(
    "table",
    [
        ic.kepler_table(0.9, 1.0),
        ic.kepler_pair(0.9, phase=math.pi, dim=3),
        ic.kepler_batch(0, 4, 0.6, 0.95, 0.8, 1.2, 1.0, 2),
        ic.random_batch(0, 2, 4, 3, 1.0, 0.1, 1.0),
        ic.pythagorean(),
        ic.figure_eight(),
        ic.plummer(0, 32),
        ic.hierarchical_triple(),
    ],
)
def test_every_table_we_build_is_valid(table):
    np.testing.assert_array_equal(validate_table(table, "table"), table)
