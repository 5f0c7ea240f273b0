"""Data flows one way: a module imports only from rows above its own."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxft

# docs/design.md draws these rows; what is in one row may import from its own folder and from any row before it.
ROWS = (
    ("core",),
    ("hub",),
    ("config",),
    ("ops",),
    ("analysis",),
    ("models",),
    ("weights",),
    ("data",),
    ("store",),
    ("features",),
    ("training",),
    ("study",),
    ("report", "tracking"),
    ("recipes",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FOLDERS = [folder for row in ROWS for folder in row]
# Rows that use less than what stands above them.
BOUNDS = {
    "config": {"core", "hub"},
    "ops": {"core"},
    "analysis": {"core", "ops"},
    "models": {"core", "ops"},
    "weights": {"core", "hub", "models"},
    "store": {"core", "config"},
    "report": {"core", "config", "analysis", "store"},
    "tracking": {"core"},
}
PACKAGE = Path(jaxft.__file__).parent


def imported(path: Path) -> set[str]:
    """Returns the modules of jaxft that a file imports, at its top or inside functions: 'jaxft', 'jaxft.core.paths'."""
    package = ("jaxft", *path.relative_to(PACKAGE).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "jaxft" else {module}
    return {name for name in names if name.split(".")[0] == "jaxft"}


def modules_of(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py")) if (PACKAGE / folder).is_dir() else [PACKAGE / f"{folder}.py"]


def allowed(folder: str) -> set[str]:
    row = next(i for i, folders in enumerate(ROWS) if folder in folders)
    above = {other for folders in ROWS[:row] for other in folders}
    return {folder} | BOUNDS.get(folder, above)


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_import_only_from_rows_above(folder):
    for path in modules_of(folder):
        wrong = {name for name in imported(path) if name == "jaxft" or name.split(".")[1] not in allowed(folder)}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_every_module_has_a_row():
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there == {*FOLDERS, "__init__"}


def test_no_module_imports_itself_through_others():
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        graph[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = top_imports(path)
    graph = {name: {other for other in others if other in graph} for name, others in graph.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def top_imports(path: Path) -> set[str]:
    """Returns the modules of jaxft that are imported when a file is."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("module", ["jaxft", "jaxft.cli", "jaxft.config", "jaxft.core.paths", "jaxft.store.records"])
def test_light_modules_import_no_jax(module):
    heavy = ("jax", "flax", "pandas", "numpy", "tensorflow_datasets")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_imports_no_jax():
    code = (
        "import sys\nfrom jaxft.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    print('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip().endswith("False")
