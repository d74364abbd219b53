"""Imports go one way, heavy packages stay in their rooms, and only the top talks."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxstepper

PACKAGE = Path(jaxstepper.__file__).parent
WINGS = (
    "machine",
    "settings",
    "physics",
    "stepping",
    "network",
    "training",
    "evaluation",
    "torch_files",
    "runs",
    "reporting",
    "pictures",
    "sweep",
    "commands",
)
"""From the foundation to the roof: a wing imports from itself and from those before it."""

# These speak with the user.
TALKING = {"commands", "sweep", "pictures", "reporting", "cli", "__main__"}
CLOCKS = {
    "machine.call_budget",
    "machine.peers",
    "evaluation.timing",
    "reporting.notebook_bars",
    "runs.lock",
    "runs.writer",
    "training.run",
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def wing_of(name):
    return name.split(".")[0]


def imported(tree):
    """Names of the modules that a tree imports anywhere, with their dots."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name lives"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(tree):
    return {name.split(".")[0] for name in imported(tree)}


def ours(tree):
    """Modules of this package that a tree imports."""
    names = (name.removeprefix("jaxstepper.") for name in imported(tree))
    return set(names) & set(TREES)


def at_import(tree):
    """The tree without the bodies of functions: what runs when the module is imported."""

    class Bare(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

        def visit_If(self, node):
            checking = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if checking else self.generic_visit(node)

    return Bare().visit(ast.parse(ast.unparse(tree)))


def users_of(package):
    return {name for name, tree in TREES.items() if package in packages(tree)}


def test_the_walk_sees_what_is_there():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(WINGS)
    assert "physics.gravity" in ours(TREES["physics.diagnostics"])
    assert set(TREES) >= CLOCKS


def test_no_module_imports_itself_by_a_detour():
    # A wing that is imported brings its `__init__`, which imports nothing.
    order = graphlib.TopologicalSorter({name: ours(tree) for name, tree in TREES.items()})
    order.prepare()


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_from_those_below_it_alone(wing):
    below = {*WINGS[: WINGS.index(wing) + 1], "errors"}
    for name, tree in TREES.items():
        if wing_of(name) == wing:
            assert {wing_of(each) for each in ours(tree)} <= below, name


def test_a_wing_says_what_lives_there_and_holds_nothing_itself():
    for name in (*WINGS, "training.two_phase", "training.windows", "training.evolution"):
        tree = TREES[name]
        assert ast.get_docstring(tree), name
        assert len(tree.body) == 1, name


def test_physics_needs_no_more_than_jax():
    for name, tree in TREES.items():
        if wing_of(name) == "physics":
            assert not packages(tree) & {"flax", "optax", "orbax", "torch", "wandb"}, name
            assert {wing_of(each) for each in ours(tree)} <= {"physics", "machine", "errors"}, name


def test_the_settings_rest_on_the_standard_library():
    for name, tree in TREES.items():
        if wing_of(name) == "settings":
            assert {wing_of(each) for each in ours(tree)} <= {"settings", "errors"}, name
            assert packages(tree) <= {"jaxstepper"} | sys.stdlib_module_names, name


def test_the_configuration_ends_in_runs():
    for name, tree in TREES.items():
        if "settings" in {wing_of(each) for each in ours(tree)}:
            assert wing_of(name) in {"settings", "runs", "sweep", "commands", "cli", "library"}, (
                name
            )


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("orbax", "runs.checkpoints"),
        ("torch", "torch_files.file"),
        ("wandb", "reporting.wandb_run"),
        ("astropy", "physics.units"),
        ("amuse", "physics.quantities"),
        ("h5py", "runs.recordings"),
        ("imageio_ffmpeg", "pictures.movies"),
        ("PIL", "pictures.movies"),
        ("optuna", "sweep.study"),
        ("rich", "reporting.bars"),
    ],
)
def test_a_heavy_package_has_one_home(package, home):
    assert users_of(package) == {home}


def test_rebound_is_run_in_one_place_and_read_in_another():
    assert users_of("rebound") == {"evaluation.rebound_peers", "physics.rebound_systems"}


def test_pictures_are_drawn_in_their_rooms():
    assert {wing_of(name) for name in users_of("matplotlib")} == {"pictures"}


@pytest.mark.parametrize(
    "package",
    [
        *("matplotlib", "imageio_ffmpeg", "PIL", "torch", "wandb", "rebound", "optuna"),
        *("astropy", "amuse", "h5py"),
    ],
)
def test_optional_packages_are_imported_in_functions_only(package):
    for name in users_of(package):
        assert package not in packages(at_import(TREES[name])), name


@pytest.mark.parametrize("module", sorted(TREES))
def test_modules_below_the_talking_ones_do_not_print_or_read_a_clock(module):
    if wing_of(module) in TALKING:
        return
    tree = TREES[module]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    if module not in CLOCKS:
        assert not packages(tree) & {"time", "datetime"}


@pytest.mark.processes
def test_the_command_line_starts_without_jax():
    heavy = "{'jax', 'flax', 'optax', 'orbax', 'torch', 'wandb', 'rich', 'numpy'}"
    code = f"import sys, jaxstepper.cli; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.processes
def test_bars_are_imported_for_good_arguments_only():
    code = (
        "import sys\nfrom jaxstepper import cli\n"
        "try: cli.main(None, ['train', '--lr', 'none'])\n"
        "except SystemExit: sys.exit('rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
