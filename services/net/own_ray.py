"""This module starts every Ray of ours: what Ray reads from the environment, its token, and a second try."""

import logging
import os
import secrets
import time
from importlib import import_module
from typing import Any

from protos.errors import Unreachable
from protos.problems import first_line

log = logging.getLogger(__name__)

ATTEMPTS = 2


def ray_environment() -> None:
    """Sets what Ray reads when it is imported: no reports of its use, tokens, patience. What is set already stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "90")  # its 30 s pass on a busy machine


def start_own_ray(**options: Any) -> None:
    """Starts a Ray of this process's own with these options of `ray.init`; import Ray after `ray_environment()`.

    It gets a token, in the environment only: without one Ray writes one into HOME. Ray's C++ side keeps the first token
    it reads for as long as the process lives, the servers of a second Ray read theirs anew; where the two differ Ray
    waits, and fails (InvalidAuthToken). A start that fails is tried once more: on a busy machine Ray's own deadline of
    30 s passes, and now and then its first process never comes up. Raises Unreachable when the last attempt fails.
    """
    ray_environment()
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray = import_module("ray")
    import_module("ray._raylet").AuthenticationTokenLoader.instance().reset_cache()
    began = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:  # Ray raises bare ones when it is slow to start
            ray.shutdown()
            if attempt == ATTEMPTS:
                waited_s = time.monotonic() - began
                raise Unreachable(f"Ray did not start within {waited_s:.0f} s: {first_line(error)}") from error
            log.warning("Ray did not start (%s); trying once more", first_line(error))
