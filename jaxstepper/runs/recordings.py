"""Files of recorded rollouts, `.npz` or `.h5`: written as states come, read, and gone on with.

Both kinds hold the same: time, dt, position, velocity and energy of a `Trajectory`, with a leading
axis of systems if there are several, NaN after the end of the shorter ones; mass, and names if the
bodies have them; `about`, a JSON text that says how the rollout was made; and `going_i/...`, the
leaves of the `Going` from which system i goes on.
"""

import json
import math
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from jaxstepper.errors import UserError, needing, require
from jaxstepper.physics.units import Units
from jaxstepper.stepping.output import Going
from jaxstepper.stepping.recording import Trajectory
from jaxstepper.stepping.rollout import Limits

FIELDS = Trajectory._fields
COPIED_AT_ONCE = 2**24
# Up to what share of it two values of G are of the same units.
SAME_G = 1e-2
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """A file that was read.

    Attributes:
        arrays: those of a `Trajectory`, with a leading axis if there are several systems; plots do
            without velocities.
        mass: `[N]` or `[B, N]`; None in files of former versions.
        names: of the bodies, or ().
        about: how the rollout was made; {} in files of former versions.
        going: the leaves of each system's `Going`, by name.
    """

    arrays: Arrays
    mass: np.ndarray | None
    names: tuple[str, ...]
    about: dict[str, Any]
    going: tuple[Arrays, ...]

    def after(self, system: int) -> float | None:
        """The time beyond which new states of a system follow on its own; None if it has none."""
        progress = _progress(self.going[system])
        times = np.atleast_2d(self.arrays["time"])[system]
        times = times[np.isfinite(times)]
        if progress is None or (progress.steps == 0 and not times.size):
            return None
        return float(progress.furthest(times))


class Progress(NamedTuple):
    """How far a recorded rollout has come: the times where it began and stands, and its steps."""

    begin: np.ndarray
    time: np.ndarray
    steps: int

    def furthest(self, times: np.ndarray) -> np.ndarray:
        """The time that is reached, by the rollout or by the last of the states at these times."""
        return np.asarray(max([self.time, *times[-1:]], key=lambda at: abs(at - self.begin)))


class Writer:
    """Writes a file, as a context; it is complete when the context ends, by an exception too."""

    def rows(self, system: int, rows: Trajectory, going: Going) -> None:
        """Adds states of a system, which may be none, and from where it can go on."""
        raise NotImplementedError

    def __enter__(self) -> "Writer":
        """Opens the file."""
        raise NotImplementedError

    def __exit__(self, *error: Any) -> None:
        """Completes the file."""
        raise NotImplementedError


def open_writer(
    path: Path, masses: np.ndarray, names: Sequence[str], about: Mapping[str, Any]
) -> Writer:
    """A writer of the recording of B systems, by the suffix of the path.

    Args:
        path: a .npz or .h5 file.
        masses: `[B, N]`.
        names: of the N bodies, or ().
        about: how the rollouts are made; what JSON can hold.

    Raises:
        UserError: h5py is missing.
    """
    head = {"mass": masses[0] if len(masses) == 1 else masses, "about": json.dumps(dict(about))}
    kind = _Hdf5 if path.suffix == ".h5" else _Npz
    return kind(path, len(masses), head, names)


class _Npz(Writer):
    """Keeps the arrays in files without names, since an archive must know their sizes first."""

    def __init__(self, path: Path, systems: int, head: Mapping[str, Any], names: Any) -> None:
        self._path, self._head = path, dict(head)
        if names:
            self._head["names"] = np.array(names, dtype=str)
        self._counts = [0] * systems
        self._going: list[Arrays] = [{} for _ in range(systems)]
        self._parts: dict[str, IO[bytes]] = {}
        # Where the parts have the states of each system, and how many bytes, call by call.
        self._places: list[list[dict[str, tuple[int, int]]]] = [[] for _ in range(systems)]
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __enter__(self) -> "_Npz":
        with _words_of_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for name in FIELDS:
                self._parts[name] = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def rows(self, system: int, rows: Trajectory, going: Going) -> None:
        with _words_of_errors(self._path):
            places = {}
            for name, array in _fields(rows, self._counts[system] == 0):
                self._kinds[name] = (array.dtype, array.shape[1:])
                places[name] = (self._parts[name].tell(), array.nbytes)
                self._parts[name].write(np.ascontiguousarray(array).data)
        # At once, so that an interruption leaves all of the states or none.
        self._places[system].append(places)
        self._counts[system] += len(rows.time)
        self._going[system] = leaves_of(going)

    def __exit__(self, *error: Any) -> None:
        unfinished = self._path.with_name(self._path.name + ".part")
        with _words_of_errors(self._path):
            with zipfile.ZipFile(unfinished, "w", allowZip64=True) as archive:
                for name, value in self._head.items():
                    _put(archive, name, np.asarray(value))
                for i, leaves in enumerate(self._going):
                    for name, leaf in leaves.items():
                        _put(archive, f"going_{i}/{name}", leaf)
                for name in self._kinds:
                    self._assemble(archive, name)
            unfinished.replace(self._path)
        for part in self._parts.values():
            part.close()

    def _assemble(self, archive: zipfile.ZipFile, name: str) -> None:
        """Copies an array into the archive, piece by piece."""
        dtype, shape = self._kinds[name]
        row = dtype.itemsize * math.prod(shape)
        places = [[each[name] for each in calls] for calls in self._places]
        counts = [sum(size for _, size in each) // row for each in places]
        longest = max(counts)
        whole = (longest, *shape) if len(counts) == 1 else (len(counts), longest, *shape)
        part = self._parts[name]
        with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
            header = {"descr": dtype.str, "fortran_order": False, "shape": whole}
            np.lib.format.write_array_header_2_0(out, header)
            for count, calls in zip(counts, places, strict=True):
                for begin, left in calls:
                    part.seek(begin)
                    while left:
                        left -= out.write(part.read(min(left, COPIED_AT_ONCE)))
                empty = np.full((min(longest - count, 1), *shape), np.nan, dtype).tobytes()
                for _ in range(longest - count):
                    out.write(empty)


class _Hdf5(Writer):
    """Every call of the rollout is in the file at once."""

    def __init__(self, path: Path, systems: int, head: Mapping[str, Any], names: Any) -> None:
        self._h5py = _h5py(path)
        self._path, self._head, self._names = path, dict(head), list(names)
        self._counts = [0] * systems
        self._file: Any = None

    def __enter__(self) -> "_Hdf5":
        with _words_of_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._h5py.File(self._path, "w")
            for name, value in self._head.items():
                self._file[name] = value
            if self._names:
                self._file["names"] = self._names
        return self

    def rows(self, system: int, rows: Trajectory, going: Going) -> None:
        several = len(self._counts) > 1
        begun = self._counts[system]
        self._counts[system] = begun + len(rows.time)
        with _words_of_errors(self._path):
            for name, array in _fields(rows, begun == 0):
                if name not in self._file:
                    lead = (len(self._counts), 0) if several else (0,)
                    row = array.dtype.itemsize * math.prod(array.shape[1:])
                    chunk = max(1, 2**16 // row)
                    self._file.create_dataset(
                        name,
                        (*lead, *array.shape[1:]),
                        array.dtype,
                        maxshape=(*lead[:-1], None, *array.shape[1:]),
                        chunks=(*[1] * several, chunk, *array.shape[1:]),
                        fillvalue=np.nan,
                    )
                data, axis = self._file[name], int(several)
                at = begun - (name == "dt" and begun > 0)
                data.resize(max(data.shape[axis], at + len(array)), axis)
                these = slice(at, at + len(array))
                data[(system, these) if several else these] = array
            for name, leaf in leaves_of(going).items():
                where = f"going_{system}/{name}"
                if where in self._file:
                    self._file[where][...] = leaf
                else:
                    self._file[where] = leaf
            self._file.flush()

    def __exit__(self, *error: Any) -> None:
        self._file.close()


def _fields(rows: Trajectory, is_first: bool) -> list[tuple[str, np.ndarray]]:
    """The arrays of some states; to the first state of a file no step led."""
    fields = zip(FIELDS, rows, strict=True)
    return [(name, array[1:] if name == "dt" and is_first else array) for name, array in fields]


def _put(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
        np.lib.format.write_array(out, np.asarray(array), allow_pickle=False)


class _words_of_errors:
    """Turns an error of the disk into one for users."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            raise UserError(f"{self._path}: cannot be written ({why})") from error


def leaves_of(going: Going) -> Arrays:
    """The leaves of a rollout on its way, by name."""
    paths = jax.tree_util.tree_flatten_with_path(going)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in paths
    }


def going_from(leaves: Arrays, like: Going, where: str) -> Going:
    """The rollout on its way that has these leaves.

    Args:
        leaves: by name, as in a file.
        like: one of the same rule and bodies.
        where: the beginning of a message.

    Raises:
        UserError: another rule, scheme or kind of bodies left other leaves.
    """
    known = leaves_of(like)
    kinds = [{name: (x.shape, x.dtype) for name, x in each.items()} for each in (leaves, known)]
    require(
        kinds[0] == kinds[1],
        f"{where}: was recorded with another rule, scheme or dtype, and cannot go on with this "
        "one; start anew from its end (--ic-path)",
    )
    structure = jax.tree.structure(like)
    return jax.tree.unflatten(structure, [jax.numpy.asarray(leaves[name]) for name in known])


def check_going_on(
    found: Recording, limits: Sequence[Limits], source: str | Path, path: str | Path | None
) -> None:
    """Checks that recorded rollouts can go on to these limits, in a file of their own.

    Args:
        found: the recording, with a `Going` for each system.
        limits: of each system, counted from its first start.
        source: the file of the recording.
        path: the file that is to be written, if any.

    Raises:
        UserError: a limit is before the end of the recording, or the file would replace it.
    """
    replaces = path is not None and Path(path).resolve() == Path(source).resolve()
    require(not replaces, f"{path}: would replace the rollout that is gone on with; name another")
    for leaves, times, limit in zip(
        found.going, np.atleast_2d(found.arrays["time"]), limits, strict=True
    ):
        progress = _progress(leaves)
        if progress is None:
            continue  # `going_from` refuses it
        begin, end = progress.begin, np.asarray(limit.time, progress.time.dtype)
        reached = progress.furthest(times[np.isfinite(times)])
        require(
            not np.sign(reached - begin) * (end - reached) < 0,
            f"{source}: reached time {reached:g} already, and cannot go on to {end:g}; the end "
            f"counts from the first start, at {begin:g}",
        )
        require(
            int(limit.steps) >= progress.steps,
            f"{source}: took more than {int(limit.steps)} steps already; steps count from the "
            "first start",
        )


def _progress(leaves: Arrays) -> Progress | None:
    """That of a rollout with shared or individual steps; None if these are the leaves of none."""

    def of(name: str) -> np.ndarray:
        return leaves[f"rollout/{name}"]

    try:
        if "rollout/clock/begin" in leaves:
            return Progress(of("clock/begin"), of("particles/time"), int(of("steps")))
        time = of("begin") + of("length") * (of("block") + of("now"))
        return Progress(of("begin"), time.astype(of("begin").dtype), int(of("steps")))
    except KeyError:
        return None


def read_recording(path: str | Path) -> Recording:
    """A file of a recorded rollout.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    path = Path(path)
    try:
        arrays = _read_hdf5(path) if path.suffix == ".h5" else _read_npz(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'damaged'})") from error
    except Exception as error:  # a damaged archive can raise anything
        raise UserError(f"{path}: is not a rollout that simulate --output wrote") from error
    if not all(name in arrays for name in FIELDS if name != "velocity"):
        raise UserError(f"{path}: is not a rollout that simulate --output wrote")
    if any(arrays[name].dtype.kind != "f" for name in FIELDS if name in arrays):
        raise UserError(f"{path}: its arrays do not hold real numbers")
    try:
        about = json.loads(str(arrays["about"])) if "about" in arrays else {}
    except ValueError as error:
        raise UserError(f"{path}: is not a rollout that simulate --output wrote") from error
    systems = len(arrays["time"]) if arrays["time"].ndim == 2 else 1
    going = tuple(
        {
            name.removeprefix(f"going_{i}/"): array
            for name, array in arrays.items()
            if name.startswith(f"going_{i}/")
        }
        for i in range(systems)
    )
    names = tuple(map(str, arrays["names"])) if "names" in arrays else ()
    return Recording(
        {name: arrays[name] for name in FIELDS if name in arrays},
        arrays.get("mass"),
        names,
        about,
        going,
    )


def end_of_recording(
    path: str | Path, units: Units | None = None, G: float = 1.0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The table of the last states `[N, 1 + 2 D]`, or `[B, N, 1 + 2 D]`, and the bodies' names.

    Args:
        path: the file.
        units: those of the table, if it has any; the file's are converted.
        G: the gravitational constant that is to move the bodies.

    Raises:
        UserError: the file cannot be read, does not know the masses, or has units or a G where
            there are none.
    """
    found = read_recording(path)
    mass, time = found.mass, found.arrays["time"]
    known = mass is not None and "velocity" in found.arrays
    require(known, f"{path}: does not know masses and velocities; record it anew")
    assert mass is not None
    to = _factors(found.about, units, G, str(path))
    several = time.ndim == 2
    last = np.maximum(np.sum(np.isfinite(time), axis=-1) - 1, 0)
    tables = []
    for i, at in enumerate(np.atleast_1d(last)):
        where = (i, at) if several else at
        x, v = found.arrays["position"][where], found.arrays["velocity"][where]
        m = mass[i] if several else mass
        tables.append(np.hstack([c * each for c, each in zip(to, (m[:, None], x, v), strict=True)]))
    return np.stack(tables) if several else tables[0], found.names


def _factors(
    about: Mapping[str, Any], units: Units | None, G: float, path: str
) -> tuple[float, float, float]:
    """What masses, positions and velocities of a recording are multiplied by."""
    theirs = about.get("units")
    if theirs is None:
        known = about.get("G", 1.0)
        same = known == 1 or math.isclose(known, G, rel_tol=SAME_G)
        message = f"{path}: was recorded with G = {known:g} and no units, not G = {G:g}"
        require(same, f"{message}; say so: --G {known!r}")
        return 1.0, 1.0, 1.0
    words = ", ".join(theirs[kind] for kind in ("length", "time", "mass"))
    if units is None:
        raise UserError(f"{path}: was recorded in {words}; say the units of the run: --units")
    mass, length, speed = (units.factor(k, theirs[k], path) for k in ("mass", "length", "speed"))
    return mass, length, speed


def _read_npz(path: Path) -> Arrays:
    # Opened here, since numpy leaves a damaged archive open.
    with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_hdf5(path: Path) -> Arrays:
    arrays: Arrays = {}
    with _h5py(path).File(path, "r") as file:

        def visit(name: str, each: Any) -> None:
            if hasattr(each, "shape"):
                array = np.asarray(each[()])
                is_text = array.dtype.kind in "OS"
                arrays[name] = np.asarray(each.asstr()[()]).astype(str) if is_text else array

        file.visititems(visit)
    return arrays


def _h5py(path: Path) -> Any:
    with needing(f"{path}: HDF5 needs h5py: pip install 'jaxstepper[hdf5]'; or use a .npz file"):
        import h5py
    return h5py
