"""This module checks the Isaac Gym adapter against the published types of Isaac Gym (isaacgym-stubs).

mypy cannot read the stubs as they are: two properties are called `lambda`, and `gymtorch` is missing. It reads a copy.
"""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = ("twin/physics/isaac.py", "twin/physics/isaac_world.py")
GYMTORCH = """
import torch
from isaacgym.gymapi import Tensor
def wrap_tensor(gym_tensor: Tensor) -> torch.Tensor: ...
def unwrap_tensor(torch_tensor: torch.Tensor) -> Tensor: ...
"""


@pytest.fixture
def check(tmp_path):
    """A function that runs mypy on files, with the stubs on its path, and returns what it says."""
    stub = next(file for file in importlib.metadata.files("isaacgym-stubs") if file.name == "gymapi.pyi")
    package = tmp_path / "isaacgym"
    package.mkdir()
    (package / "__init__.pyi").touch()
    (package / "gymapi.pyi").write_text(Path(stub.locate()).read_text().replace("def lambda(", "def lambda_("))
    (package / "gymtorch.pyi").write_text(GYMTORCH)
    settings = tmp_path / "mypy.ini"
    settings.write_text(
        f"[mypy]\nmypy_path = {tmp_path}:{ROOT}\nexplicit_package_bases = true\nfollow_imports = silent\n"
        "check_untyped_defs = true\ndisallow_untyped_defs = true\n"
        "[mypy-isaacgym.*]\nignore_errors = true\n"
        "[mypy-mujoco.*,numba.*,torch.*,gymnasium.*,trimesh.*]\nignore_missing_imports = true\nfollow_imports = skip\n"
    )

    def run(*files: str) -> str:
        command = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", tmp_path / "cache", *files]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False).stdout

    return run


def test_the_adapter_calls_isaac_gym_as_its_types_allow(check):
    assert check(*ADAPTER).startswith("Success")


def test_a_wrong_call_would_be_found(check, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from isaacgym import gymapi\n"
        "gym = gymapi.acquire_gym()\n"
        "gym.simulate(1)\n"
        "gym.no_such_call()\n"
        "gym.create_env(1, 2, 3)\n"
    )
    said = check(str(wrong))
    assert all(f"wrong.py:{line}: error:" in said for line in (3, 4, 5))
