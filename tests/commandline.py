"""Commands in the process of the tests, and a training that is small enough for them."""

import contextlib
import json
import re
import tempfile
import warnings
from typing import NamedTuple

import jax
import pytest

from jaxstepper import cli

# A network that compiles soon, and its three bodies.
BODIES = "--num-particles 3 --seed 0"
TINY = f"train --hidden-dims 8 8 --dropout 0 --no-compilation-cache {BODIES}"
REPORT = {
    "steps",
    "force_evaluations",
    "end_time",
    "max_energy_error",
    "rule",
    "scheme",
} | {
    f"{what}_{when}"
    for what in ("energy", "momentum", "angular_momentum")
    for when in ("initial", "final", "residual")
}
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_debug_nans",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_platforms",
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    warned: str

    def reports(self):
        """The lines of standard output, each of which must be JSON without NaN.

        Without the time that they took, which no two runs share.
        """

        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")

        lines = [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]
        return [{n: each for n, each in line.items() if n != "wall_time"} for line in lines]


@contextlib.contextmanager
def unchanged_jax():
    kept = {name: getattr(jax.config, name) for name in JAX_SETTINGS}
    try:
        yield
    finally:
        for name, value in kept.items():
            jax.config.update(name, value)


def call(*argv):
    """A command in this process, whose settings of JAX stay as they were; texts are split."""
    words = [each.split() if isinstance(each, str) else [str(each)] for each in argv]
    return outcome_of(cli.main, None, [word for each in words for word in each])


def outcome_of(function, *args, **options):
    """The outcome of what leaves as a command does."""
    # Files: the type checker takes nothing less for a stream.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with (
            unchanged_jax(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as caught,
            pytest.raises(SystemExit) as left,
        ):
            warnings.simplefilter("always")
            function(*args, **options)
        out.seek(0)
        err.seek(0)
        warned = "\n".join(str(each.message) for each in caught)
        return Outcome(left.value.code, out.read(), err.read(), warned)


def assert_refused(outcome, *words):
    """Exit code 2 and one line on standard error, with these words in it."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert re.match(r"jaxstepper [\w-]+: error: ", outcome.err)
    for word in words:
        assert word in outcome.err
