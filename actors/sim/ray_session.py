"""This module joins or starts Ray, describes the environment of its workers, and reads what watches actors."""

import atexit
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from actors.sim import fork_launcher
from actors.sim.settings import TwinWorld
from protos.errors import Unreachable
from protos.files import RAY_SOCKET_BYTES, short_folder
from protos.problems import first_line
from protos.settings import to_json
from services.net import ray_environment, start_own_ray

if TYPE_CHECKING:
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager

OBJECT_STORE_BYTES = 256 << 20
THIN = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Environment of workers that each have a fraction of a core."""
AGENT_OPTION = "--dashboard_agent_command="
AGENT_PORTS = ("METRICS_AGENT_PORT_NAME", "METRICS_EXPORT_PORT_NAME", "DASHBOARD_AGENT_LISTEN_PORT_NAME")


def start_ray(address: str) -> None:
    """Joins or starts Ray. A Ray of our own gets its own folder, so that several runs can share a machine.

    Ray must not be imported before: it reads its environment then. Raises Unreachable.
    """
    ray_environment()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        folder = str(short_folder("twinrl-ray-", RAY_SOCKET_BYTES))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        options |= {
            "num_cpus": max(2, os.cpu_count() or 2),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": folder,
            "_system_config": {"prestart_worker_first_driver": False, "enable_worker_prestart": False},
            "runtime_env": {"env_vars": {"PYTHONPATH": path} | THIN},
        }
        with _bare_head():
            start_own_ray(**options)
        return
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises bare ones: told to whoever starts it
        ray.shutdown()
        raise Unreachable(f"Ray at {address}: {first_line(error)}") from error


def actor_manager() -> "type[FaultTolerantActorManager]":
    """Returns RLlib's FaultTolerantActorManager, read from its file alone, which needs nothing of RLlib but a type.

    Importing RLlib for it takes three seconds of CPU time and 300 MB, torch's included, in a process that only watches.
    """
    import ray

    needed = ModuleType("ray.rllib.utils.typing")
    vars(needed)["T"] = TypeVar("T")
    path = Path(ray.__file__).parent / "rllib" / "utils" / "actor_manager.py"
    spec = spec_from_file_location("ray.rllib.utils.actor_manager", path)
    assert spec is not None and spec.loader is not None, f"the version of Ray is pinned: {path}"
    module = module_from_spec(spec)
    added = needed.__name__ not in sys.modules
    sys.modules.setdefault(needed.__name__, needed)
    try:
        spec.loader.exec_module(module)
    finally:
        if added:
            del sys.modules[needed.__name__]
    manager: type[FaultTolerantActorManager] = module.FaultTolerantActorManager
    return manager


@contextmanager
def _bare_head() -> Iterator[None]:
    """Lets `ray.init` start what runs tasks, and no dashboard, its agent, autoscaler and log monitor; workers without
    a detour.

    It has no options for them. The version of Ray is pinned; tests/actors/test_ray_session.py says what must be there.
    The raylet waits for the ports of the dashboard's agent, -1 where it offers nothing, and ends with its agent: the
    agent's place takes a program that ends when its input does, which is with the raylet.
    """
    from ray._private import node, services

    raylet = import_module("ray._raylet")

    def start_without_agent(command: list[str], *rest: Any, **options: Any) -> Any:
        bare = [AGENT_OPTION + "cat" if word.startswith(AGENT_OPTION) else word for word in command]
        return start_process(bare, *rest, **options)

    class BareNode(node.Node):
        def __init__(self, ray_params: Any, **options: Any) -> None:
            ray_params.update_if_absent(setup_worker_path=fork_launcher.__file__)
            super().__init__(ray_params, **options)

        def start_api_server(self, **_: object) -> None:
            self._webui_url = ""

        def start_monitor(self) -> None:
            """Starts no autoscaler: the machine is all there is."""

        def start_log_monitor(self) -> None:
            """Starts nobody who copies the workers' logs to the driver."""

        def start_raylet(self, *rest: Any, **options: Any) -> None:
            for port in AGENT_PORTS:
                raylet.persist_port(self.get_session_dir_path(), self.node_id, getattr(raylet, port), -1)
            super().start_raylet(*rest, **options)

    whole, node.Node = node.Node, BareNode
    start_process, services.start_ray_process = services.start_ray_process, start_without_agent
    try:
        yield
    finally:
        node.Node, services.start_ray_process = whole, start_process


def warm_environment(world: TwinWorld) -> dict[str, Any]:
    """Returns the runtime environment of workers that are forked warm for one world (`actors.sim.fork_server`)."""
    return {
        "env_vars": THIN | {fork_launcher.WORLD_VARIABLE: json.dumps(to_json(world))},
        "py_executable": f"{sys.executable} -I -S {fork_launcher.__file__}",
    }
