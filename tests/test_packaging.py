"""The distribution: our names are ours alone, imports are declared, the wheel is whole, the robot needs no cluster."""

import ast
import csv
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
"""Run in environments of their own, which the benchmark makes."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("protos", "policy", "twin", "services", "actors", "learner", "twinrl")


@functools.cache
def owners():
    """Top-level import name -> canonical names of the installed distributions that bring it."""
    found = {}
    for distribution in importlib.metadata.distributions():
        rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
        owner = canonicalize_name(distribution.name)  # parses the metadata
        for name in {row[0].partition("/")[0].partition(".")[0] for row in rows}:
            found.setdefault(name, set()).add(owner)
    return found


def requirements_of(name):
    """What an installed distribution requires; nothing of one that is not installed here."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def closure(requirements):
    """Canonical names of all distributions that these requirements bring, extras of our own included."""
    found, open_ends = set(), [Requirement(text) for text in requirements]
    while open_ends:
        wanted = open_ends.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            found.add((name, extra))
            if name == "twinrl":
                texts = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
            else:
                texts = requirements_of(name)
            for one in map(Requirement, texts):
                if one.marker is None or one.marker.evaluate({"extra": extra}):
                    open_ends.append(Requirement(str(one).split(";")[0].strip()))
    return {name for name, _ in found}


UNPUBLISHED = {"isaacgym"}
"""No package index has NVIDIA's Isaac Gym: who has it installs it by hand, and its adapter refuses without."""


def imported_modules(folder):
    """Top-level names of all absolute imports, with one place each."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        if path.is_relative_to(PEERS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], path.relative_to(ROOT))
    return found


def test_no_other_distribution_owns_our_names():
    assert {name: owners().get(name, set()) - {"twinrl"} for name in PACKAGES} == {name: set() for name in PACKAGES}


@pytest.mark.parametrize("package", [*PACKAGES, "scripts", "tests"])
def test_every_import_is_declared(package):
    declared = closure(["twinrl[dev]"])
    ours = {
        *PACKAGES,
        "benchmarks",
        *UNPUBLISHED,
        "scripts",
        "tests",
        *(path.stem for path in (ROOT / package).rglob("*.py")),
    }
    for name, place in imported_modules(ROOT / package).items():
        if name not in sys.stdlib_module_names and name not in ours:
            assert owners().get(name, set()) & declared, (
                f"{place} imports {name}, which pyproject.toml does not declare"
            )


def test_every_pin_is_exact_and_every_dependency_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines}
    assert closure(["twinrl[dev]"]) - pinned - {"twinrl"} == set()


def test_no_machine_or_registry_is_named():
    names = ["Makefile", ".ci/run", "constraints.txt", "pyproject.toml", "docker-compose.yml", "README.md"]
    files = [*(ROOT / name for name in names), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy" / "docker").iterdir()]
    for path in files:
        found = re.findall(r"pypi\.org|pythonhosted|index-url http|/home/|/root/|/work/", path.read_text())
        assert found == [], path.name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_source_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert sources <= names
    assert {"twinrl/report/template.html", "twin/scan/points.html"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, f"twinrl-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]


def link_distributions(names, target):
    """Makes installed distributions visible in another environment by links to their top-level files."""
    for name in names:
        for file in importlib.metadata.files(name) or []:
            parts = file.parts
            if parts[0] in ("..", "__pycache__"):
                continue
            depth = 2 if parts[0] in ("google", "nvidia") and len(parts) > 2 else 1  # shared by several distributions
            link, source = target.joinpath(*parts[:depth]), Path(file.locate()).parents[len(parts) - depth - 1]
            source = Path(file.locate()) if len(parts) == depth else source
            if not link.exists() and source.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(source)


@pytest.fixture(scope="module")
def robot_python(wheel, tmp_path_factory):
    """An environment as `pip install twinrl[robot]` makes it: our wheel and the closure of that extra, no more."""
    folder = tmp_path_factory.mktemp("robot")
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    zipfile.ZipFile(wheel).extractall(site)
    link_distributions(closure(["twinrl[robot]"]) - {"twinrl"}, site)
    return folder / "bin" / "python"


def test_the_robot_runs_without_ray_and_learner_dependencies(robot_python, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [str(robot_python), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    for module in ("ray", "transformers", "mujoco", "pycolmap", "gsplat", "matplotlib"):
        assert f"No module named '{module}'" in run("-c", f"import {module}").stderr, module
    result = run("-m", "actors.real", "--help")
    assert result.returncode == 0, result.stderr
    assert "--settings" in result.stdout


@pytest.mark.timeout(600)
@pytest.mark.skipif("TWINRL_SLOW_TESTS" not in os.environ, reason="installs torch anew; set TWINRL_SLOW_TESTS=1")
def test_the_robot_extra_installs_alone(tmp_path):
    venv.create(tmp_path / "robot", with_pip=True)
    python = tmp_path / "robot" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[robot]"]
    subprocess.run(install, check=True, cwd=tmp_path)

    def run(*arguments):
        return subprocess.run([python, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path)

    shown = run("-m", "actors.real", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "demonstrate" in shown.stdout
    for absent in ("ray", "tensorboard", "transformers"):
        assert run("-c", f"import {absent}").returncode == 1
