"""What public docstrings have to say, counted: shapes of arrays, errors, arguments, examples."""

import ast
import re
from pathlib import Path

import pytest

import jaxft

PACKAGE = Path(jaxft.__file__).parent
FOLDERS = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")})
ARRAY = re.compile(r"\b(jax\.Array|np\.ndarray)\b")
SHAPE = re.compile(r"\[[^\]]*\]|\bscalars?\b|\bshape\b")
MOST_ARGUMENTS = 3  # of a function whose docstring does without "Args:"


def public_functions(folder):
    """Yields (name, function, docstring) of the public functions and methods that have a docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") != folder:
            continue
        tree = ast.parse(path.read_text())
        for owner in (
            tree,
            *(node for node in tree.body if isinstance(node, ast.ClassDef)),
        ):
            if isinstance(owner, ast.ClassDef) and owner.name.startswith("_"):
                continue
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
                    name = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
                    yield name, node, ast.get_docstring(node)


def parameters(function):
    """Returns the parameters but `self` and `cls`."""
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return [each for each in every if each.arg not in ("self", "cls")]


def takes_array(function):
    """Returns whether a parameter is an array, or a sequence or dict of arrays."""
    annotations = [ast.unparse(each.annotation) for each in parameters(function) if each.annotation]
    return any(ARRAY.search(text) and "Callable" not in text for text in annotations)


def raises(function):
    """Returns whether an error is raised in the function itself."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None and "_Left" not in ast.unparse(node.exc):
            return True
        waiting += ast.iter_child_nodes(node)
    return False


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_gives_the_shapes_of_arrays(folder):
    assert [n for n, f, text in public_functions(folder) if takes_array(f) and not SHAPE.search(text)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_names_the_errors_that_are_raised(folder):
    found = [n for n, f, text in public_functions(folder) if raises(f) and not re.search(r"\b[Rr]aises\b", text)]
    assert found == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_docstring_describes_the_arguments_where_they_are_many(folder):
    many = [each for each in public_functions(folder) if len(parameters(each[1])) > MOST_ARGUMENTS]
    assert [name for name, _, text in many if "Args:" not in text] == []


def test_what_a_user_calls_has_an_example():
    named = {name: getattr(jaxft, name) for name in jaxft.__all__}
    functions = {name: each for name, each in named.items() if callable(each) and not isinstance(each, type)}
    assert functions
    assert [name for name, each in functions.items() if "Example:" not in (each.__doc__ or "")] == []
