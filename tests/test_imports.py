"""Data flows one way: a module imports only from rows above its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxft

# docs/design.md draws these rows; what is in one row may import from any row before it.
ROWS = [
    ["errors"],
    ["devices"],
    ["stopping"],
    ["clock"],
    ["paths"],
    ["config"],
    ["identity"],
    ["store"],
    ["ops"],
    ["nn"],
    ["pooling"],
    ["models"],
    ["torch_file"],
    ["weights"],
    ["data"],
    ["features"],
    ["adapters"],
    ["starts"],
    ["linear"],
    ["regularisers"],
    ["schedules", "gradients"],
    ["optim"],
    ["train"],
    ["executors"],
    ["execute"],
    ["readout", "soup"],
    ["plan"],
    ["jobs"],
    ["workers"],
    ["study"],
]
ANALYSIS_MAY_IMPORT = {"paths", "linear", "analysis"}
REPORT_MAY_IMPORT = {"errors", "config", "store", "analysis", "report"}
PACKAGE = Path(jaxft.__file__).parent


def imported(path: Path) -> set[str]:
    """Returns the first-level modules of jaxft that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "jaxft" else [module]
        found |= {name.split(".")[1] for name in names if name.startswith("jaxft.")}
    return found


def files_of(module: str) -> list[Path]:
    folder = PACKAGE / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{module}.py"]


@pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda row: "-".join(ROWS[row]))
def test_modules_import_only_from_rows_above(row):
    above = {module for earlier in ROWS[:row] for module in earlier}
    for module in ROWS[row]:
        allowed = above | {module} | ({"analysis"} if module == "study" else set())
        for path in files_of(module):
            assert imported(path) <= allowed, f"{path.name} imports {imported(path) - allowed}"


@pytest.mark.parametrize(("module", "allowed"), [("analysis", ANALYSIS_MAY_IMPORT), ("report", REPORT_MAY_IMPORT)])
def test_analysis_and_report_stand_alone(module, allowed):
    for path in files_of(module):
        assert imported(path) <= allowed, f"{path.name} imports {imported(path) - allowed}"


def test_every_module_has_a_row():
    placed = {module for row in ROWS for module in row} | {"analysis", "report", "commands", "cli", "__init__"}
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there == placed


@pytest.mark.parametrize("module", ["jaxft", "jaxft.cli", "jaxft.config", "jaxft.paths", "jaxft.store"])
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
