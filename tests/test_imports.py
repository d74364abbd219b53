"""Imports go one way, heavy packages stay in their rooms, and only the top talks."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxstepper

PACKAGE = Path(jaxstepper.__file__).parent
TREES = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")}
PHYSICS = {
    "particles",
    "pairs",
    "orbital",
    "dynamics",
    "integrators",
    "diagnostics",
    "history",
    "features",
    "losses",
    "initial_conditions",
    "precision",
    "tables",
}
# These speak with the user; everything else is below them.
TOP = {
    "cli",
    "both_command",
    "train_command",
    "simulate_command",
    "convert",
    "make_ics_command",
    "evaluate_command",
    "evaluate_arguments",
    "sweep_command",
    "sweep_runs",
    "plot_command",
    "train_job",
    "train_report",
    "training_bars",
    "debug_lines",
    "run_artifacts",
    "metrics_file",
    "tracking",
    "progress",
    "console",
    "plots",
    "figures",
    "movies",
    "scene",
    "training_movie",
    "rollout_plot",
    "work_precision_plot",
    "signals",
} & set(TREES)
PICTURES = {"figures", "plots", "rollout_plot", "work_precision_plot", "scene"}
MAY_READ_A_CLOCK = {
    "training",
    "window_training",
    "run_writer",
    "rollouts",
    "seeds",
    "evaluate",
    "reference",
}


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
    parts = (name.split(".") for name in imported(tree))
    return {part[1] for part in parts if part[0] == "jaxstepper" and part[1:2]} & set(TREES)


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
    assert PHYSICS | MAY_READ_A_CLOCK | {"cli", "torch_bridge"} <= set(TREES)
    assert "dynamics" in ours(TREES["diagnostics"])


def test_no_module_imports_itself_by_a_detour():
    order = graphlib.TopologicalSorter({name: ours(tree) for name, tree in TREES.items()})
    order.prepare()


def test_nothing_imports_what_is_above_it():
    assert not {name for name in set(TREES) - TOP if ours(TREES[name]) & TOP}


def test_physics_rests_on_physics_alone():
    for name in PHYSICS:
        assert ours(TREES[name]) <= PHYSICS | {"errors", "memory"}, name
        assert not packages(TREES[name]) & {"flax", "optax", "orbax", "torch", "wandb"}, name


def test_the_configuration_rests_on_itself_and_the_standard_library():
    below = {"errors": set(), "values": {"errors"}, "config": {"errors", "values"}}
    below["sweep_space"] = set(below)
    below["toml_file"] = set(below)
    below["arguments"] = set(below)
    below["memory"] = {"errors"}
    for name, allowed in below.items():
        assert ours(TREES[name]) <= allowed, name
        assert packages(TREES[name]) <= {"jaxstepper"} | sys.stdlib_module_names, name


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("orbax", "checkpoints"),
        ("torch", "torch_bridge"),
        ("wandb", "tracking"),
        ("rebound", "reference"),
        ("imageio_ffmpeg", "movies"),
        ("PIL", "movies"),
        ("optuna", "sweep_study"),
        ("rich", "progress"),
    ],
)
def test_a_heavy_package_has_one_home(package, home):
    assert users_of(package) == {home}


def test_pictures_are_drawn_in_their_rooms():
    assert users_of("matplotlib") <= PICTURES


@pytest.mark.parametrize(
    "package", ["matplotlib", "imageio_ffmpeg", "PIL", "torch", "wandb", "rebound", "optuna"]
)
def test_optional_packages_are_imported_in_functions_only(package):
    for name in users_of(package):
        assert package not in packages(at_import(TREES[name])), name


@pytest.mark.parametrize("module", sorted(set(TREES) - TOP))
def test_modules_below_the_top_do_not_print_or_read_a_clock(module):
    tree = TREES[module]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}
    if module not in MAY_READ_A_CLOCK:
        assert not packages(tree) & {"time", "datetime"}


def test_the_command_line_starts_without_jax():
    heavy = "{'jax', 'flax', 'optax', 'orbax', 'torch', 'wandb', 'rich', 'numpy'}"
    code = f"import sys, jaxstepper.cli; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_bars_are_imported_for_good_arguments_only():
    code = (
        "import sys\nfrom jaxstepper import cli\n"
        "try: cli.main(None, ['train', '--lr', 'none'])\n"
        "except SystemExit: sys.exit('rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
