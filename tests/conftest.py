"""Tests run in float64; it must be on before the first array."""

import subprocess
import sys

import jax
import pytest

jax.config.update("jax_enable_x64", True)
# Most of the tests' time is compiling programs that run once.
jax.config.update("jax_disable_most_optimizations", True)
# Commands keep compiled programs for the next process; here, that is hundreds that nobody needs.
jax.config.update("jax_enable_compilation_cache", False)


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """Thousands of compiled programs in one process would use up its memory mappings."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def sandbox_source(tmp_path_factory):
    """A folder to copy, with all that a command may be pointed at."""
    import sandbox

    folder = tmp_path_factory.mktemp("sandbox")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sandbox.build(folder)
    return folder


@pytest.fixture(autouse=True)
def no_python_is_started_without_the_marker(request, monkeypatch):
    """A test that starts another Python says so with the marker `processes`."""
    if request.node.get_closest_marker("processes"):
        return
    start = subprocess.Popen.__init__

    def refuse_python(self, args, *more, **settings):
        words = args if isinstance(args, list | tuple) else [args]
        if str(words[0]) == sys.executable:
            raise AssertionError("mark this test with `processes`: it starts another Python")
        start(self, args, *more, **settings)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse_python)
