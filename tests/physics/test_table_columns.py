"""Files of bodies whose columns have names, other orders, other encodings, or are compressed."""

import codecs
import gzip
import re
import warnings

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics import initial_conditions as ic
from jaxstepper.physics.tables import load_bodies, load_table, save_table, validate_table

PAIR = np.array([[1.0, -0.5, 0.25, 0.1, -2], [3.0, 0.5, -0.75, -0.1, 2]])
FREE = ("a,b,c,d,e", "m,x,y,vx")
SOLID = ic.figure_eight(3) * [1, 2, 3, 4, 5, 6, 7] + [0, 0, 0, 0.5, 0, 0, 0.25]


def written(tmp_path, text, name="bodies.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def rows(table, order, separator=","):
    return "".join(separator.join(repr(float(row[i])) for i in order) + "\n" for row in table)


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("mass,x,y,vx,vy", [0, 1, 2, 3, 4]),
        ("x,y,vx,vy,mass", [1, 2, 3, 4, 0]),
        ("x,y,vx,vy,m", [1, 2, 3, 4, 0]),
        ("VX, Vy, X, Y, Mass", [3, 4, 1, 2, 0]),
        ("v0,v1,mass,x1,x0", [3, 4, 0, 2, 1]),
        ("x1,x2,v1,v2,m", [1, 2, 3, 4, 0]),
        ("pos_x,vel_x,pos_y,vel_y,mass", [1, 3, 2, 4, 0]),
        ("m,x[0],x[1],v[0],v[1]", [0, 1, 2, 3, 4]),
        ('"mass","y","x","vy","vx"', [0, 2, 1, 4, 3]),
    ],
)
@pytest.mark.parametrize("style", ["csv", "csv remark", "remark", "remark with commas", "columns:"])
def test_named_columns_come_in_any_order(tmp_path, header, order, style):
    if style.startswith("csv"):
        mark = "" if style == "csv" else "# "
        path = written(tmp_path, f"{mark}{header}\n{rows(PAIR, order)}")
    else:
        blanks = header if style == "remark with commas" else header.replace(", ", ",")
        blanks = blanks if style == "remark with commas" else blanks.replace(",", " ")
        prefix = "# columns: " if style == "columns:" else "# "
        text = f"# a pair of bodies in space\n{prefix}{blanks}\n{rows(PAIR, order, ' ')}"
        path = written(tmp_path, text, "bodies.txt")
    np.testing.assert_array_equal(load_table(path), PAIR)


def test_the_energy_of_the_pair_whose_masses_stand_last(tmp_path):
    text = "x,y,vx,vy,mass\n1,0,0,.5,1e-3\n-1,0,0,-.5,1e-3\n"
    table = load_table(written(tmp_path, text))
    mass, x, v = table[:, 0], table[:, 1:3], table[:, 3:]
    energy = 0.5 * np.sum(mass * np.sum(v**2, axis=1)) - mass.prod() / np.linalg.norm(x[1] - x[0])
    assert energy == pytest.approx(2.495e-4)


def test_three_dimensions_with_an_id_and_a_radius(tmp_path):
    text = "id,m,x,y,z,vx,vy,vz,radius\n"
    text += "".join(f"{i},{rows(SOLID[i : i + 1], range(7)).strip()},0.1\n" for i in range(3))
    with pytest.warns(UserWarning, match=r"column radius is not read"):
        table = load_table(written(tmp_path, text))
    np.testing.assert_array_equal(table, SOLID)


def test_a_column_of_names_may_hold_words(tmp_path):
    text = "name,mass,x,v\nSun,1,0,0\nEarth,3e-6,1,1\n"
    bodies = load_bodies(written(tmp_path, text))
    np.testing.assert_array_equal(bodies.table, [[1, 0, 0], [3e-6, 1, 1]])
    assert bodies.names == ("Sun", "Earth")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("x,y,vx,vy,weight", "line 1: column 'weight' is unknown; name mass, x y z"),
        ("a,b,c,d,e", "column 'a' is unknown"),
        ("px,py,x,y,m", "column 'px' is unknown"),
        ("x,y,vx,vy,id", "no column is named mass"),
        ("m,x,y,vx,z", "no column is v1 or v2"),
        ("m,x,vx,vy,id", "no column is x1"),
        ("m,mass,x,vx,id", "'m' and 'mass' name the same"),
        ("m,x,x0,vx,vy", "'x' and 'x0' name the same"),
        ("m,x,y,vx", "names 4 columns, but the rows have 5"),
    ],
)
@pytest.mark.parametrize("is_remark", [False, True])
def test_names_that_are_no_table_are_refused(tmp_path, header, said, is_remark):
    if is_remark and header in FREE:
        pytest.skip("a remark of other words is free")
    path = written(tmp_path, f"{'# ' * is_remark}{header}\n{rows(PAIR, range(5))}")
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_table(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "remark", ["a body at the star", "x", "drawn with the seed 3", "Msun pc pc km/s km/s"]
)
def test_a_free_remark_stays_one(tmp_path, remark):
    path = written(tmp_path, f"# {remark}\n{rows(PAIR, range(5), ' ')}", "bodies.txt")
    np.testing.assert_array_equal(load_table(path), PAIR)


@pytest.mark.parametrize(
    "remark", ["# r theta vr vtheta m", "% e a M m omega", "! mass e a M omega"]
)
def test_a_remark_that_may_name_the_columns_is_warned_of(tmp_path, remark):
    path = tmp_path / "polar.txt"
    path.write_text(f"{remark}\n1 2 3 4 5\n2 3 4 5 6\n")
    with pytest.warns(UserWarning, match="line 1 is taken for a remark, and the columns for mass"):
        load_table(path)


@pytest.mark.parametrize("name", ["bodies.csv", "bodies.txt", "bodies.npy"])
def test_nine_columns_without_names_are_four_dimensions_only_if_asked_for(tmp_path, name):
    nine = np.arange(18.0).reshape(2, 9) + 1
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, nine)
    else:
        np.savetxt(path, nine, delimiter="," if path.suffix == ".csv" else " ")
    with pytest.raises(UserError, match=r"9 columns.*4 dimensions.*--dim 4"):
        load_table(path)
    np.testing.assert_array_equal(load_table(path, dim=4), nine)


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".dat"])
def test_our_own_names_are_understood(tmp_path, dim, suffix):
    table = ic.random_table(0, 3, dim, 1.0, 1.0, 1.0)
    save_table(tmp_path / f"t{suffix}", table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_table(tmp_path / f"t{suffix}"), table)


def test_exponents_of_fortran(tmp_path):
    path = written(tmp_path, "1.0D+00 -5d-1 0 0.D0 1\n2 .5D0 0 0 -1.0d+0\n", "bodies.dat")
    np.testing.assert_array_equal(load_table(path), [[1, -0.5, 0, 0, 1], [2, 0.5, 0, 0, -1]])
    with pytest.raises(UserError, match="'D5' is not a number"):
        load_table(written(tmp_path, "1 0 0 D5 0\n1 1 0 0 0\n", "bad.txt"))


def test_massless_bodies_are_read_beside_massive_ones(tmp_path):
    path = written(tmp_path, "1 0 0 0 0\n0 1 0 0 1\n", "bodies.txt")
    assert load_table(path)[1, 0] == 0
    massless = written(tmp_path, "0 0 0 0 0\n0 1 0 0 1\n", "massless.txt")
    with pytest.raises(UserError, match="no body has a mass > 0"):
        load_table(massless)
    assert load_table(massless, in_field=True).shape == (2, 5)


def test_one_body_is_read_for_a_field(tmp_path):
    path = written(tmp_path, "1 0 0 0 0\n", "star.txt")
    with pytest.raises(UserError, match="only one body.*--external-field-mass"):
        load_table(path)
    table = load_table(path, in_field=True)
    np.testing.assert_array_equal(validate_table(table, "star", in_field=True), [[1, 0, 0, 0, 0]])


@pytest.mark.parametrize("kind", ["txt", "csv", "dat", "npy"])
def test_compressed_tables(tmp_path, kind):
    save_table(tmp_path / f"t.{kind}", PAIR)
    path = tmp_path / f"t.{kind}.gz"
    path.write_bytes(gzip.compress((tmp_path / f"t.{kind}").read_bytes()))
    np.testing.assert_array_equal(load_table(path), PAIR)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged gzip"):
        load_table(path)


TEXT = "# Körper: 1 Å\nmass,x,y,vx,vy\n" + rows(PAIR, range(5))


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8"),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("latin-1"),
        TEXT.replace("\n", "\r\n").encode("latin-1"),
    ],
)
def test_encodings_of_text(tmp_path, content):
    path = tmp_path / "bodies.csv"
    path.write_bytes(content)
    np.testing.assert_array_equal(load_table(path), PAIR)


@pytest.mark.parametrize(
    "content",
    [TEXT.encode("utf-16-le"), PAIR.tobytes(), b"\x7fELF\x02\x01\x01\x00", b"1 0 0\x00\n1 1 0\n"],
)
def test_what_is_no_text_is_refused(tmp_path, content):
    path = tmp_path / "bodies.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not text.*UTF-8, or UTF-16") as caught:
        load_table(path)
    assert "\n" not in str(caught.value)
