"""Ray for the learners of one stage: started with them, on this machine alone, and ended with them."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray

_STORE_BYTES = 256 << 20
"""Room for batches and answers."""


class LocalRay:
    """A Ray of our own with a folder of its own, so that several stages and fleets share a machine in peace."""

    def __init__(self, learners: int, *, state_bytes: int) -> None:
        """`state_bytes`: what checkpoints carry to and fro; Ray's store has room for it."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._folder = tempfile.mkdtemp(prefix="twinrl-learner-")
        root = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        # torch.distributed talks over loopback: the gradients of one machine's learners are nobody else's business
        variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        options: dict[str, Any] = {
            "num_cpus": learners + 1,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES + 3 * state_bytes,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": variables},
        }
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)  # the updater says who is gone
        ray.init(address="local", _temp_dir=self._folder, **options)

    def close(self) -> None:
        """Ends Ray and its processes."""
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
