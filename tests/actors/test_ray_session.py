"""A Ray of our own is what runs tasks, and nothing beside it."""

import subprocess
import sys

PROGRAM = """
import os
import sys
from contextlib import suppress
import psutil
from actors.sim.ray_session import actor_manager, start_ray

def running():
    parts = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie is one, too
            parts += child.cmdline()[:3]
    return parts

start_ray("local")
import ray
from ray._private import node

assert node.Node.__module__ == "ray._private.node" and node.Node.__name__ == "Node", "put back where it was"
assert ray.get(ray.remote(num_cpus=0.1)(lambda: 7).remote(), timeout=60) == 7

class Counter:
    def ping(self):
        return "pong"

    def apply(self, func):
        return func(self)

counters = [ray.remote(num_cpus=0.1, max_restarts=-1)(Counter).remote() for _ in range(2)]
manager = actor_manager()(counters)
assert [one.get() for one in manager.foreach_actor("ping", timeout_seconds=60)] == ["pong"] * 2
ray.kill(counters[0], no_restart=False)
manager.set_actor_state(0, False)
while manager.probe_unhealthy_actors(timeout_seconds=20, mark_healthy=True) != [0]:
    pass
assert "torch" not in sys.modules and "ray.rllib" not in sys.modules
words = " ".join(running())
assert "raylet" in words and "gcs_server" in words, words
for extra in ("dashboard.py", "monitor.py", "DashboardAgent", "agent.py"):
    assert extra not in words, words
processes = psutil.Process().children(recursive=True)
raylet = next(one for one in processes if one.name() == "raylet")
agent = next(one for one in raylet.children() if one.name() == "cat")
raylet.kill()
agent.wait(30)
ray.shutdown()
assert "raylet" not in " ".join(running())

os.environ["RAY_AUTH_TOKEN"] = "another, as after somebody put the environment back"
start_ray("local")
assert ray.get(ray.remote(num_cpus=0.1)(lambda: 8).remote(), timeout=60) == 8
ray.shutdown()
"""


def test_nobody_is_started_who_runs_no_task_and_actors_are_watched_without_all_of_rllib():
    done = subprocess.run([sys.executable, "-c", PROGRAM], timeout=150, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
