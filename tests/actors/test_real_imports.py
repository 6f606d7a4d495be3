"""The robot's computer needs few packages, and the arm moves through its controller and by no other way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "ray",
    "mujoco",
    "numba",
    "gymnasium",
    "transformers",
    "tensorboard",
    "pycolmap",
    "gsplat",
    "scipy",
    "PIL",
    "matplotlib",
    "jinja2",
    "psutil",
)
"""What `twinrl[robot]` does not install."""
GUARD = f"""
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is not installed on the robot's computer")
sys.meta_path.insert(0, Guard())
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", GUARD + code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_without_the_cluster():
    done = run(
        "import sys, runpy; sys.argv[0] = 'real'; runpy.run_module('actors.real', run_name='__main__')", "--help"
    )
    assert done.returncode == 0, done.stderr
    assert "demonstrate" in done.stdout and "--arm" in done.stdout


def test_the_whole_robot_side_imports_without_the_cluster():
    done = run(
        "import actors.real.modes, actors.human.scripted, policy.acting, policy.checkpoint\n"
        "import services.guide, services.weights, services.replay, rtde_control, cv2"
    )
    assert done.returncode == 0, done.stderr


def test_the_drivers_process_loads_nothing_heavy():
    """A long import or a busy library would starve the controller's watchdog."""
    heavy = (
        "torch",
        "ray",
        "mujoco",
        "numba",
        "redis",
        "grpc",
        "cv2",
        "scipy",
        "tyro",
        "zstandard",
        "prometheus_client",
    )
    code = f"""
import sys, runpy
sys.argv = ["driver", "no number"]
try:
    runpy.run_module("actors.real.driver", run_name="__main__", alter_sys=True)
finally:
    sys.stdout.write(" ".join(sorted(set({heavy!r}) & set(sys.modules))))
    sys.stdout.flush()
"""
    code = code.replace("runpy.run_module", "import os; os._exit = sys.exit; runpy.run_module")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "invalid literal" in done.stderr, done.stderr
    assert done.stdout == ""


def test_the_door_opens_to_every_name():
    import actors.real

    assert all(getattr(actors.real, name).__name__ == name for name in actors.real.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        actors.real.Nothing  # noqa: B018


def test_help_of_the_standin():
    done = subprocess.run(
        [sys.executable, "-m", "actors.simulated_ur", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "--settings" in done.stdout


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


DRIVER = sorted((ROOT / "actors" / "real").rglob("*.py")) + sorted((ROOT / "actors" / "human").glob("*.py"))


@pytest.mark.parametrize("path", DRIVER, ids=lambda path: path.name)
def test_the_driver_knows_no_simulated_world(path):
    light = ("twin.parts", "twin.rotations", "twin.randomize", "twin.robots", "twin.tasks")
    for name in imports(path):
        assert not name.startswith("actors.simulated_ur"), f"{path.name} imports {name}"
        assert not name.startswith("twin.") or name.startswith(light), f"{path.name} imports {name}"


def test_only_the_arm_commands_ur_rtde():
    commands = ("servoL", "servoJ", "moveL", "moveJ", "speedL", "speedJ")
    users = {path.name for path in DRIVER for word in commands if f".{word}(" in path.read_text()}
    assert users == {"arm.py"}
    assert {path.name for path in DRIVER if "rtde_control" in set(imports(path))} == {"link.py"}
