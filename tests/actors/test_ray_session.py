"""A Ray of our own is what runs tasks, and nothing beside it."""

import subprocess
import sys

PROGRAM = """
import sys
import psutil
from actors.sim.ray_session import start_ray

def running():
    return [part for child in psutil.Process().children() for part in child.cmdline()[:3]]

start_ray("local")
import ray
from ray._private import node

assert node.Node.__module__ == "ray._private.node" and node.Node.__name__ == "Node", "put back where it was"
assert ray.get(ray.remote(num_cpus=0.1)(lambda: 7).remote(), timeout=60) == 7
words = " ".join(running())
assert "raylet" in words and "gcs_server" in words, words
for extra in ("dashboard.py", "monitor.py"):
    assert extra not in words, words
ray.shutdown()
assert "raylet" not in " ".join(running())
"""


def test_nobody_is_started_who_runs_no_task():
    done = subprocess.run([sys.executable, "-c", PROGRAM], timeout=150, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
