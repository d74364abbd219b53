"""Generated tables, TOML files and command lines: no traceback, no hang and no changed file.

Training and rollouts are cut off where they would begin: what is thrown here is everything before.
"""

import json
import re

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import sandbox
from commandline import call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxstepper.settings.config import OPTIONS, accepts, flag_of

# Derandomised: a failure repeats, and two runs of one commit agree. No deadline: machines differ.
FEW = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MANY = settings(FEW, max_examples=5000, derandomize=False, print_blob=True)
STARTED = 0


@pytest.fixture(scope="module")
def box(sandbox_source, tmp_path_factory):
    """A sandbox in which commands stop where their work would begin."""
    folder, cache = tmp_path_factory.mktemp("box"), tmp_path_factory.mktemp("cache")
    sandbox.copy(sandbox_source, folder)

    def stop(*_, **__):
        raise SystemExit(STARTED)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr("jaxstepper.runs.start.prepare", stop)
        patch.setattr("jaxstepper.commands.simulate.from_table", lambda *_: None)
        patch.setattr("jaxstepper.commands.simulate.open_wandb", stop)
        yield folder


def assert_holds(box, before, *argv):
    """The property: an exit code of ours, one line if it is 2, and nothing written."""
    # Arguments as the shell would hand them over; texts would be split.
    outcome = call(*map(Word, argv))
    event = f"{argv}: {outcome}"
    assert outcome.code in (0, 1, 2), event
    assert "Traceback" not in outcome.err, event
    if outcome.code == 2:
        assert outcome.err.count("\n") == 1, event
        assert re.match(rf"jaxstepper {argv[0]}: error: \S", outcome.err), event
        assert outcome.warned == "", event
        assert outcome.out == "", event
    assert sandbox.snapshot(box) == before, event


class Word(str):
    """One argument: `call` takes it whole, blanks and all."""

    __slots__ = ()

    def split(self, *_):
        return [str(self)]


# --- what is thrown --------------------------------------------------------------------------

NASTY_NUMBERS = (
    0,
    -0.0,
    1,
    -1,
    2,
    0.5,
    1e-300,
    1e-160,
    1e39,
    1e200,
    1e308,
    np.inf,
    -np.inf,
    np.nan,
)
NASTY_TEXTS = (
    *(
        "",
        " ",
        "0",
        "1",
        "-1",
        "3",
        "7",
        "0.5",
        "1.5",
        "-3",
        "1e400",
        "nan",
        "inf",
        "1_000",
        "0x10",
    ),
    *(str(10**30), str(2**31), "100000", "true", "None", "[]", "{}", "a b", "é", "\x00", "\n", "²"),
    *(
        "-",
        "--",
        "=",
        "x" * 300,
        "x/" * 3000,
        "../x",
        "/proc/x",
        "/dev/null",
        ".",
        "..",
        "~",
        "new",
    ),
    *("kept", "kept/0", "kept/9", "kept.pt", "text.pt", "checkpoints", "none", "none.pt"),
    *("rollout.npz", "folder.npz", "new.npz", "no/new.npz", "good.txt/x.npz", "kept.pt/x.npz"),
    *("good.txt", "none.txt", "good.toml", "none.toml", "random", "kepler", "ml", "history"),
    *("float32", "cpu", "gpu", "manual", "torch", "both", "rich", "delta_mag", "sgd", "lbfgs"),
)
texts = st.sampled_from(NASTY_TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
# Places that may well be given; the first three can be written to.
PLACES = ("new", "new.npz", "no/new.npz", "kept", "kept/0", "kept.pt", "good.txt", "folder.npz")
numbers = st.sampled_from(NASTY_NUMBERS) | st.floats() | st.integers(-3, 5)
KINDS = ("f8", "f4", "f2", "i8", "u1", "?", "c16", "U3", "S2", "M8[s]", "O", "f8,i4", ">f8")


@st.composite
def tables(draw):
    """A file name and its bytes or array: tables that are nearly right, and anything else."""
    kind = draw(st.sampled_from(["near", "text", "array", "bytes"]))
    if kind == "bytes":
        return draw(st.sampled_from(["t.npy", "t.txt", "t"])), draw(st.binary(max_size=80))
    if kind == "text":
        word = st.sampled_from(["1", "0", "-1", "x", "#", ",", "nan", "1e999", "\t", "\x00", "é"])
        lines = draw(st.lists(st.lists(word, max_size=7).map(" ".join), max_size=4))
        return "t.txt", "\n".join(lines).encode()
    if kind == "near":
        bodies, dim = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        table = rng.normal(size=(bodies, 1 + 2 * dim))
        table[:, 0] = 1
        for _ in range(draw(st.integers(0, 2))):
            row, column = draw(st.integers(0, bodies - 1)), draw(st.integers(0, 2 * dim))
            table[row, column] = draw(numbers)
        return "t.npy", table
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    return "t.npy", np.zeros(shape, dtype)


def mostly(usual, other):
    """The first strategy, and one time in a dozen the second; `one_of` would weigh them alike."""
    return st.integers(0, 11).flatmap(lambda number: other if number == 7 else usual)


def likely(name):
    """Values that the option takes, as in TOML, and now and then one that it does not."""
    allowed = OPTIONS[name].allowed
    if allowed.metavar.startswith("{"):
        good = st.sampled_from(allowed.metavar[1:-1].split(","))
    elif allowed.kind is bool:
        good = st.booleans()
    elif allowed.kind is str:
        good = st.sampled_from(PLACES)
    else:
        good = st.sampled_from((1, 2, 3, 4, 6, 100) if allowed.kind is int else (0.5, 1e-3, 2.5))
    if allowed.many:
        good = st.lists(good, min_size=1, max_size=3)
    return st.tuples(st.just(name), mostly(good, toml_values))


plain = st.one_of(numbers.filter(lambda x: x == x), st.booleans(), texts)
toml_values = plain | st.lists(plain, max_size=3) | st.dictionaries(texts, plain, max_size=2)
LIKELY = {name: likely(name) for name in sorted(OPTIONS)}
names = st.sampled_from(sorted(OPTIONS))
near_names = st.sampled_from([name[1:] for name in LIKELY] + [n.replace("_", "-") for n in LIKELY])


def settings_for(command):
    """Up to four settings, most of which the command takes."""
    own = st.sampled_from(
        [name for name in LIKELY if accepts(command, name) and OPTIONS[name].flag]
    )
    known = own.flatmap(LIKELY.__getitem__)
    other = st.tuples(names | near_names | texts, toml_values)
    return st.lists(mostly(known, other), max_size=4).map(dict)


tomls = st.builds(
    lambda top, train, simulate: top | {"train": train, "simulate": simulate},
    settings_for("both"),
    settings_for("train"),
    settings_for("simulate"),
)


def quoted(text):
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(value):
    """A value as TOML, which takes JSON's strings and lists, but not its numbers and objects."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return quoted(value) if isinstance(value, str) else repr(value)


def as_flags(settings):
    """Settings as words of a command line."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, values)]
    return words


def words_of(command):
    """Arguments of a command, its name first, with a word too many now and then."""
    flags = settings_for(command).map(as_flags)
    stray = mostly(st.just([]), st.lists(texts, max_size=1))
    return st.tuples(flags, stray).map(lambda parts: [command, *parts[0], *parts[1]])


command_lines = st.one_of(*map(words_of, ("train", "simulate", "both")))


# --- the properties --------------------------------------------------------------------------


def check_table(box, table, command, flags):
    name, content = table
    path = box / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    try:
        assert_holds(box, sandbox.snapshot(box), command, "--ic-path", name, *flags)
    finally:
        path.unlink()


def check_toml(box, content, command):
    text = "\n".join(f"{quoted(name)} = {toml(value)}" for name, value in content.items())
    (box / "c.toml").write_bytes(text.encode())
    try:
        assert_holds(box, sandbox.snapshot(box), command, "--config", "c.toml")
    finally:
        (box / "c.toml").unlink()


runs = st.sampled_from(["train", "simulate", "both"])
table_flags = st.sampled_from(
    [(), ("--dtype", "float32"), ("--softening", "0.1"), ("--multi-orbit",), ("--dim", "2")]
)


@FEW
@given(tables(), runs, table_flags)
def test_tables(box, table, command, flags):
    check_table(box, table, command, flags)


@FEW
@given(tomls, runs)
def test_toml_files(box, content, command):
    check_toml(box, content, command)


@FEW
@given(command_lines)
def test_command_lines(box, words):
    assert_holds(box, sandbox.snapshot(box), *words)


@pytest.mark.slow
@MANY
@given(tables(), runs, table_flags)
def test_many_tables(box, table, command, flags):
    check_table(box, table, command, flags)


@pytest.mark.slow
@MANY
@given(tomls, runs)
def test_many_toml_files(box, content, command):
    check_toml(box, content, command)


@pytest.mark.slow
@MANY
@given(command_lines)
def test_many_command_lines(box, words):
    assert_holds(box, sandbox.snapshot(box), *words)
