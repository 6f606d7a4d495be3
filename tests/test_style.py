"""House rules that no linter knows."""

import ast
import functools
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("protos", "policy", "twin", "services", "actors", "learner", "twinrl", "benchmarks", "scripts")
MAX_LINES = 600
P90_FUNCTION_LINES, MAX_FUNCTION_LINES = 30, 60
MAX_FLAT_FILES = 15
FORBIDDEN_IMPORTS = {"pickle", "_pickle", "cPickle", "pickle5", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
PROCESS_ROOTS = {"__main__.py", "cli.py"}
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "_pb2" not in path.name and "__pycache__" not in path.parts
)


@functools.cache
def trees():
    """Source file -> its syntax tree."""
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def places(nodes):
    return [f"{path.relative_to(ROOT)}:{node.lineno}" for path, node in nodes]


def walk(kind):
    return [(path, node) for path, tree in trees().items() for node in ast.walk(tree) if isinstance(node, kind)]


OPENERS = """
    what of how where whether when which who whom whose why as also so and or but for from in on at by with without if
    to behind because before after until while not no none nothing nobody only too again here there those that like
    instead beside above below between under over
"""
FRAGMENTS = frozenset(OPENERS.split())
"""Words with which a docstring would open as a fragment instead of a sentence."""


def lines_of(node):
    return node.end_lineno - node.lineno + 1


def docstrings(tree):
    """(line, text) of every docstring, those below attributes included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text
        if isinstance(node, ast.Module | ast.ClassDef):
            for before, after in itertools.pairwise(node.body):
                if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                    value = getattr(after.value, "value", None)
                    if isinstance(value, str):
                        yield after.lineno, value


def test_a_file_holds_one_idea():
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_functions_are_short():
    functions = walk(ast.FunctionDef) + walk(ast.AsyncFunctionDef)
    lengths = sorted(lines_of(node) for _, node in functions)
    assert places((path, node) for path, node in functions if lines_of(node) > MAX_FUNCTION_LINES) == []
    assert lengths[int(0.9 * len(lengths))] <= P90_FUNCTION_LINES


def test_folders_are_not_crowded():
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in SOURCES)
    assert {folder: count for folder, count in counts.items() if count > MAX_FLAT_FILES} == {}


def test_docstrings_open_with_a_sentence():
    found = []
    for path, tree in trees().items():
        for line, text in docstrings(tree):
            word = text.split()[0].strip("`\"'(,.:;").lower() if text.split() else ""
            if word in FRAGMENTS:
                found.append(f"{path.relative_to(ROOT)}:{line}: {text.strip().splitlines()[0]}")
    assert found == []


def unpickles(node):
    """Whether a piece of code imports a pickle module, or reads a file in a way that may run what is in it."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return any(name.split(".")[0] in FORBIDDEN_IMPORTS for name in names)
    if isinstance(node, ast.keyword):
        return node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    if not isinstance(node, ast.Call):
        return False
    called = ast.unparse(node.func)
    if called == "torch.load":
        return all((word.arg, ast.unparse(word.value)) != ("weights_only", "True") for word in node.keywords)
    if called.endswith(("__import__", "import_module")):
        return any(isinstance(one, ast.Constant) and one.value in FORBIDDEN_IMPORTS for one in node.args)
    return called.endswith(("read_pickle", "to_pickle"))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", True),
        ("from dill.source import getsource", True),
        ("__import__('marshal')", True),
        ("importlib.import_module('cloudpickle')", True),
        ("np.load(path, allow_pickle=True)", True),
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("pandas.read_pickle(path)", True),
        ("np.load(path, allow_pickle=False)", False),
        ("torch.load(path, weights_only=True)", False),
        ("import json", False),
    ],
)
def test_what_counts_as_unpickling(code, found):
    assert any(unpickles(node) for node in ast.walk(ast.parse(code))) == found


def test_nothing_unpickles():
    assert places((path, getattr(node, "value", node)) for path, node in walk(ast.AST) if unpickles(node)) == []


def test_nothing_prints():
    calls = [(path, node) for path, node in walk(ast.Call) if ast.unparse(node.func) == "print"]
    assert places(calls) == []


def test_broad_excepts_stand_at_process_roots_only():
    """Elsewhere one must raise again, or say on its line whose root it is (a thread's) and who hears of it."""
    found = []
    for path, node in walk(ast.ExceptHandler):
        names = {item.id for item in ast.walk(node.type) if isinstance(item, ast.Name)} if node.type else {"everything"}
        if not names & {"Exception", "BaseException", "everything"} or path.name in PROCESS_ROOTS:
            continue
        raises = any(isinstance(item, ast.Raise) and item.exc is None for item in ast.walk(node))
        explained = "#" in path.read_text().splitlines()[node.lineno - 1]
        if not (raises or explained):
            found.append((path, node))
    assert places(found) == []


def test_layers_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later(word):
    assert [str(path.relative_to(ROOT)) for path in SOURCES if word in path.read_text()] == []
