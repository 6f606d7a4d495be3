"""Ray for the learners of one stage: started with them, on this machine alone, and ended with them."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray

from protos.errors import TwinRLError

_STORE_BYTES = 256 << 20
"""Room for batches and answers."""


class LocalRay:
    """A Ray of our own with a folder of its own, so that several stages and fleets share a machine in peace."""

    def __init__(self, learners: int, *, threads: int, state_bytes: int) -> None:
        """`threads` of each learner; `state_bytes`: what checkpoints carry to and fro, Ray's store has room for it.

        Raises TwinRLError when Ray does not start, by its own deadlines.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "180")  # its 30 s pass on a busy machine
        self._folder = tempfile.mkdtemp(prefix="twinrl-learner-")
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        # torch.distributed talks over loopback: the gradients of one machine's learners are nobody else's business
        variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
        options: dict[str, Any] = {
            "num_cpus": learners + 1,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES + 3 * state_bytes,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": variables},
        }
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)  # the updater says who is gone
        try:
            ray.init(address="local", _temp_dir=self._folder, **options)
        except Exception as error:  # Ray raises bare ones when it is slow to start: told to whoever starts it
            self.close()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TwinRLError(f"Ray did not start for {learners} learners: {reason}") from error

    def close(self) -> None:
        """Ends Ray and its processes."""
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
