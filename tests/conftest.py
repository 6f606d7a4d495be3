"""How property tests search: the same examples in every run, without a clock.

A check that fails once in a while says nothing about a change. To search anew, with other examples each time:
HYPOTHESIS_PROFILE=search make test
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.net import ray_environment

ray_environment()
"""Ray reads it when it is imported, and the first test that imports it may not be one that starts it."""

settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


LONGEST_FILES = ("test_run.py", "test_training_commands.py", "test_packaging.py")
"""Files at the end of the order that would keep one worker busy when the other has nothing left."""


def pytest_collection_modifyitems(items) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.fixture(scope="session")
def examples_site(tmp_path_factory) -> Path:
    """Returns a folder with the example package as `pip install examples` leaves it there."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    examples = Path(__file__).resolve().parents[1] / "examples"
    subprocess.run(build, cwd=examples, check=True, capture_output=True, timeout=120)
    zipfile.ZipFile(next((folder / "dist").glob("*.whl"))).extractall(folder)
    return folder
