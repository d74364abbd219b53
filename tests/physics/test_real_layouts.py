"""Initial conditions as other programs and people write them: what is read, and what is refused.

The layouts are written after the descriptions of the formats. All that are read hold the same two
bodies, so that what is expected is written down once.
"""

# ruff: noqa: E501 (a layout stands on its line)

import gzip

import numpy as np
import pytest

from jaxstepper.errors import UserError
from jaxstepper.physics.tables import load_bodies
from jaxstepper.physics.units import Units

SOLID = np.array([[1.0, 0, 0, 0, 0, 0, 0], [0.5, 2, -1, 0.25, 0, 0.75, -4]])
FLAT = SOLID[:, [0, 1, 2, 4, 5]]
NAMES = ("Sun", "Vesta")
SUN = "1 0 0 0 0 0 0"
VESTA = "0.5 2 -1 0.25 0 0.75 -4"
PAIR = f"{SUN}\n{VESTA}\n"
COMMAS = PAIR.replace(" ", ",")
AU = Units("AU", "yr", "AU / yr", "Msun")
SI = Units("m", "s", "m / s", "kg")
AU_IN_KM = 149597870.7

# Each: the file, its content, the bodies, their names.
READ = {
    "fort.10 of NBODY6": ("fort.10", PAIR, SOLID, ()),
    "double precision of Fortran": (
        "fort.10",
        " 0.10000000D+01 0.0D0 0.D0 0d0 0.0D+00 0D0 0.0D-3\n 5.D-1 2.d0 -1.0D0 .25D0 0D0 7.5D-1 -4.\n",
        SOLID,
        (),
    ),
    "hash header of rebound scripts": ("sim.txt", f"# m x y z vx vy vz\n{PAIR}", SOLID, ()),
    "columns named above a rule": ("ic.dat", f"m x y z vx vy vz\n{PAIR}", SOLID, ()),
    "gadget-like ascii, ids, masses last": (
        "snap.ascii",
        "# id x y z vx vy vz mass\n11 0 0 0 0 0 0 1\n12 2 -1 .25 0 .75 -4 .5\n",
        SOLID,
        ("11", "12"),
    ),
    "nemo table, mass last": (
        "nemo.tab",
        "# x y z vx vy vz m\n0 0 0 0 0 0 1\n2 -1 .25 0 .75 -4 .5\n",
        SOLID,
        (),
    ),
    "amuse csv without units": (
        "set.csv",
        f"#mass,x,y,z,vx,vy,vz\n#none,none,none,none,none,none,none\n{COMMAS}",
        SOLID,
        (),
    ),
    "amuse csv in nbody units": (
        "set.csv",
        "#mass,x,y,z,vx,vy,vz\n#nbody mass,nbody length,nbody length,nbody length,"
        f"nbody speed,nbody speed,nbody speed\n{COMMAS}",
        SOLID,
        (),
    ),
    "pandas with its index": (
        "frame.csv",
        "id,mass,x,y,z,vx,vy,vz\n0,1,0,0,0,0,0,0\n1,.5,2,-1,.25,0,.75,-4\n",
        SOLID,
        ("0", "1"),
    ),
    "names of bodies first": (
        "planets.csv",
        "name,m,x,y,z,vx,vy,vz\nSun,1,0,0,0,0,0,0\nVesta,.5,2,-1,.25,0,.75,-4\n",
        SOLID,
        NAMES,
    ),
    "names of bodies last, in quotes": (
        "planets.csv",
        '"m","x","y","z","vx","vy","vz","Name"\n1,0,0,0,0,0,0,"Sun"\n.5,2,-1,.25,0,.75,-4,"Vesta"\n',
        SOLID,
        NAMES,
    ),
    "a comma in a quoted name": (
        "planets.csv",
        'name,m,x,y,vx,vy\n"Sun, the",1,0,0,0,0\n"Vesta, 4",.5,2,-1,0,.75\n',
        FLAT,
        ("Sun, the", "Vesta, 4"),
    ),
    "a blank in a quoted name": (
        "planets.txt",
        'name m x y vx vy\n"The Sun" 1 0 0 0 0\n"4 Vesta" .5 2 -1 0 .75\n',
        FLAT,
        ("The Sun", "4 Vesta"),
    ),
    "semicolons": ("ic.csv", f"mass;x;y;z;vx;vy;vz\n{PAIR.replace(' ', ';')}", SOLID, ()),
    "tabs": ("ic.tsv", f"mass\tx\ty\tz\tvx\tvy\tvz\n{PAIR.replace(' ', chr(9))}", SOLID, ()),
    "commas in a .txt": ("ic.txt", COMMAS, SOLID, ()),
    "blanks in a .csv": ("ic.csv", PAIR, SOLID, ()),
    "commas and blanks": ("ic.csv", PAIR.replace(" ", " , "), SOLID, ()),
    "trailing commas": ("ic.csv", COMMAS.replace("\n", ",\n"), SOLID, ()),
    "trailing commas, header too": (
        "ic.csv",
        f"m,x,y,z,vx,vy,vz\n{COMMAS}".replace("\n", ",\n"),
        SOLID,
        (),
    ),
    "percent remarks of TeX and Matlab": ("ic.dat", f"% a pair\n{PAIR}", SOLID, ()),
    "exclamation marks of Fortran": (
        "ic.dat",
        f"! m x y z vx vy vz\n{SUN} ! the Sun\n{VESTA}\n",
        SOLID,
        (),
    ),
    "byte order mark": ("ic.csv", b"\xef\xbb\xbfm,x,y,z,vx,vy,vz\n" + COMMAS.encode(), SOLID, ()),
    "utf-16 of a spreadsheet": (
        "ic.csv",
        f"m,x,y,z,vx,vy,vz\n{COMMAS}".encode("utf-16"),
        SOLID,
        (),
    ),
    "lines of Windows": ("ic.txt", PAIR.replace("\n", "\r\n"), SOLID, ()),
    "lines of an old Mac": ("ic.txt", PAIR.replace("\n", "\r"), SOLID, ()),
    "empty lines": ("ic.txt", f"\n\n{SUN}\n\n   \n{VESTA}\n\n", SOLID, ()),
    "no line break at the end": ("ic.txt", PAIR.strip(), SOLID, ()),
    "gzip": ("ic.txt.gz", gzip.compress(PAIR.encode(), mtime=0), SOLID, ()),
    "gzip under another name": ("ic.dat", gzip.compress(PAIR.encode(), mtime=0), SOLID, ()),
    "two dimensions": ("flat.txt", "1 0 0 0 0\n.5 2 -1 0 .75\n", FLAT, ()),
    "velocities first": (
        "ic.txt",
        "# vx vy vz x y z m\n0 0 0 0 0 0 1\n0 .75 -4 2 -1 .25 .5\n",
        SOLID,
        (),
    ),
    "pos_x and vel_x": (
        "ic.csv",
        f"mass,pos_x,pos_y,pos_z,vel_x,vel_y,vel_z\n{COMMAS}",
        SOLID,
        (),
    ),
    "counted from one": ("ic.csv", f"M,X1,X2,X3,V1,V2,V3\n{COMMAS}", SOLID, ()),
    "time derivatives": ("ic.csv", f"m,x,y,z,xdot,ydot,zdot\n{COMMAS}", SOLID, ()),
    "aligned by blanks": (
        "ic.txt",
        "  1.0    0.0    0.0    0.0    0.0    0.0    0.0\n"
        "  0.5    2.0   -1.0    0.25   0.0    0.75  -4.0\n",
        SOLID,
        (),
    ),
}

UNITS = {
    "in the header, in brackets": (
        AU,
        "ic.csv",
        f"m[Msun],x[AU],y[AU],z[AU],vx[AU/yr],vy[AU/yr],vz[AU/yr]\n{COMMAS}",
    ),
    "in the header, in parentheses, after blanks": (
        AU,
        "ic.txt",
        f"# m (Msun) x (au) y (au) z (au) vx (au / yr) vy (au / yr) vz (au / yr)\n{PAIR}",
    ),
    "in a row of their own, as amuse writes": (
        AU,
        "set.csv",
        f"#mass,x,y,z,vx,vy,vz\n#MSun,AU,AU,AU,AU / yr,AU / yr,AU / yr\n{COMMAS}",
    ),
    "in the yaml of ecsv": (
        AU,
        "planets.ecsv",
        "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: m, unit: Msun, datatype: float64}\n"
        + "".join(f"# - {{name: {x}, unit: AU, datatype: float64}}\n" for x in "xyz")
        + "".join(f"# - {{name: v{x}, unit: AU / yr, datatype: float64}}\n" for x in "xyz")
        + f"m x y z vx vy vz\n{PAIR}",
    ),
    "converted": (
        AU,
        "ic.csv",
        "m [kg],x [km],y [km],z [km],vx [AU/d],vy [AU/d],vz [AU/d]\n"
        "1.988409870698051e30,0,0,0,0,0,0\n"
        f"0.9942049353490254e30,{2 * AU_IN_KM},{-AU_IN_KM},{AU_IN_KM / 4},0,"
        f"{0.75 / 365.25},{-4 / 365.25}\n",
    ),
    "none, which are those of the run": (AU, "ic.txt", PAIR),
}

REFUSED = {
    "units, but none of the run": (
        "ic.csv",
        f"m[Msun],x[AU],y[AU],z[AU],vx[AU/yr],vy[AU/yr],vz[AU/yr]\n{COMMAS}",
        "the columns have units (m in Msun, x in AU, ...); say those of the run",
    ),
    "a row of units, but none of the run": (
        "set.txt",
        f"# m x y z vx vy vz\n# Msun pc pc pc km/s km/s km/s\n{PAIR}",
        "the columns have units",
    ),
    "a row of units that is no remark": (
        "set.csv",
        f"m,x,y,z,vx,vy,vz\nMsun,AU,AU,AU,AU/yr,AU/yr,AU/yr\n{COMMAS}",
        "line 2, column 1 (m): 'Msun' is not a number",
    ),
    "some units": (
        "ic.csv",
        f"m,x[AU],y[AU],z[AU],vx[AU/yr],vy[AU/yr],vz[AU/yr]\n{COMMAS}",
        "column 'm' has no unit, others have, such as AU",
    ),
    "vectors of HORIZONS without masses": (
        "horizons_results.txt",
        "$$SOE\n2460000.5, A.D. 2023-Feb-25 00:00:00.0000, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,\n$$EOE\n",
        "line 2 has 8 columns, those above 1; if line 1 is a count or a title, put # before it",
    ),
    "csv of HORIZONS": (
        "horizons.csv",
        "JDTDB,Calendar Date (TDB),X,Y,Z,VX,VY,VZ,\n"
        "2460000.5,A.D. 2023-Feb-25,1.0,2.0,3.0,4.0,5.0,6.0,\n",
        "column 'JDTDB' is unknown; name mass",
    ),
    "orbital elements": (
        "elements.csv",
        "name,m,a,e,inc,Omega,omega,M\nSun,1,0,0,0,0,0,0\n",
        "column 'a' is unknown",
    ),
    "snapshot of NEMO, a number a line": (
        "snap.atos",
        "2\n3\n0.0\n1.0\n0.5\n0 0 0\n2 -1 0.25\n0 0 0\n0 0.75 -4\n",
        "line 6 has 3 columns, those above 1",
    ),
    "a count above the bodies": ("xyz.txt", f"2\n{PAIR}", "if line 1 is a count or a title"),
    "dyn of starlab": (
        "pair.dyn",
        "(Particle\n  N = 2\n(Log\n)Log\n(Dynamics\n  m = 1\n)Dynamics\n)Particle\n",
        "line 2 has 3 columns",
    ),
    "json": ("ic.json", '{"m": [1, 2]}\n', "is not a number"),
    "decimal commas": ("ic.csv", PAIR.replace(".", ",").replace(" ", ";"), "'0,5' is not a number"),
    "decimal commas and blanks": (
        "ic.txt",
        PAIR.replace(".", ","),
        "line 2 has 4 columns, those above 7",
    ),
    "a missing value": (
        "ic.csv",
        "m,x,y,vx,vy\n1,0,0,0,0\n.5,2,,0,1\n",
        "line 3, column 3 (y): is empty",
    ),
    "a last value that is missing": (
        "ic.csv",
        "m,x,y,vx,vy\n1,0,0,0,0\n.5,2,1,0,\n",
        "line 3 has 4 columns, those above 5",
    ),
    "NaN": (
        "ic.csv",
        "m,x,y,vx,vy\n1,0,0,0,0\n.5,2,NaN,0,1\n",
        "body 1 (counted from 0) has x1 = nan",
    ),
    "N/A": ("ic.csv", "m,x,y,vx,vy\n1,0,0,0,0\n.5,2,N/A,0,1\n", "'N/A' is not a number"),
    "dashes": ("ic.txt", "1 0 0 0 0\n.5 -- 0 0 1\n", "'--' is not a number"),
    "minus of a word processor": ("ic.txt", "1 0 0 0 0\n.5 2 \u22121 0 1\n", "is not a number"),
    "a negative mass": ("ic.txt", "1 0 0 0 0\n-.5 2 1 0 1\n", "has mass = -0.5; give a mass >= 0"),
    "fits": ("ic.fits", b"SIMPLE  =                    T" + b" " * 50 + b"\0", "is not text"),
    "hdf5 of gadget": ("snap.hdf5", b"\x89HDF\r\n\x1a\n\x00\x00", "is not text"),
    "an archive of rebound": ("run.bin", b"REBOUND Binary File. Version: 5\0\0", "from_rebound"),
    "a spreadsheet": ("ic.xlsx", b"PK\x03\x04\x14\x00\x06\x00", "is not text"),
    "an unknown column": (
        "ic.csv",
        f"m,x,y,z,vx,vy,weight\n{COMMAS}",
        "column 'weight' is unknown",
    ),
    "two masses": (
        "ic.csv",
        "m,mass,x,y,vx\n1,1,0,0,0\n1,1,1,0,0\n",
        "'m' and 'mass' name the same",
    ),
}


def saved(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("layout", READ)
def test_what_is_read(tmp_path, layout):
    name, content, table, names = READ[layout]
    bodies = load_bodies(saved(tmp_path, name, content))
    np.testing.assert_array_equal(bodies.table, table)
    assert bodies.names == names


@pytest.mark.parametrize("layout", UNITS)
def test_units_in_files(tmp_path, layout):
    units, name, content = UNITS[layout]
    table = load_bodies(saved(tmp_path, name, content), units=units).table
    np.testing.assert_allclose(table, SOLID, rtol=1e-12)


@pytest.mark.parametrize("layout", REFUSED)
def test_what_is_refused(tmp_path, layout):
    name, content, words = REFUSED[layout]
    path = saved(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        load_bodies(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_units_of_another_kind_are_refused(tmp_path):
    text = f"m[AU],x[AU],y[AU],z[AU],vx[AU/yr],vy[AU/yr],vz[AU/yr]\n{COMMAS}"
    with pytest.raises(UserError, match=r"line 1, column 'm': AU is no unit of mass"):
        load_bodies(saved(tmp_path, "ic.csv", text), units=SI)
    text = f"m[stones],x[AU],y[AU],z[AU],vx[AU/yr],vy[AU/yr],vz[AU/yr]\n{COMMAS}"
    with pytest.raises(UserError, match=r"'stones' is not understood as a unit"):
        load_bodies(saved(tmp_path, "ic.csv", text), units=SI)
