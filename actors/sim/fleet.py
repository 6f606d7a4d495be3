"""The fleet: starts Ray, the policy server and the twin actors, and keeps them alive.

Ray restarts a dead actor process (`max_restarts=-1`); RLlib's FaultTolerantActorManager finds out which one was away
and probes it back into service. An actor whose loop ended with an error is killed, which restarts it too. Nothing here
touches a transition: actors write to replay themselves, so the fleet may die and come back without losing data.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.sim.policy_server import PolicyServer
from actors.sim.settings import FleetSettings
from actors.sim.twin_actor import POLICY_SERVER, TwinActor
from protos.errors import Unreachable
from protos.status import StatusFile
from services.telemetry import MetricsLog
from twin import tasks

log = logging.getLogger(__name__)

RAY_CONNECT_TIMEOUT_S = 60.0
WINDOW_EPISODES = 20
POLICY_STATS_TIMEOUT_S = 1.0
WEIGHTS_RATES = ("version", "versions_behind", "weights_age_s", "weights_silent_s")
"""Of the policy server's stats, what its status shows."""


class Fleet:
    """A policy server and `settings.actors` twin actors; a context manager."""

    def __init__(self, settings: FleetSettings) -> None:
        self.settings = settings
        self._status = StatusFile()
        self._metrics = MetricsLog(settings.run_dir / "metrics.jsonl", stage="twin_rl")
        self._last = {"steps": 0.0, "episodes": 0.0, "successes": 0.0}

    def __enter__(self) -> "Fleet":
        self._status.write(doing="starting Ray", waiting_for="ray")
        _start_ray(self.settings.ray_address)
        import ray
        from ray.rllib.utils.actor_manager import FaultTolerantActorManager

        instruction = tasks.get(self.settings.world.task).instruction
        server = ray.remote(num_cpus=0.1, max_restarts=-1, max_concurrency=1000)(PolicyServer)
        self.server = server.options(name=POLICY_SERVER).remote(self.settings, instruction)
        twin_actor = ray.remote(num_cpus=0.1, max_restarts=-1, max_concurrency=4)(TwinActor)
        self.actors = [twin_actor.remote(self.settings, i) for i in range(self.settings.actors)]
        self._manager = FaultTolerantActorManager(self.actors, max_remote_requests_in_flight_per_actor=2)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._status.write(doing="stopping", waiting_for="")
        # what is not sent by then lies in the spool; a supervisor gives us four seconds in all
        self._manager.foreach_actor("stop", kwargs={"timeout_s": 1.0}, timeout_seconds=1.5)
        ray.shutdown()

    def run(self, stop: Callable[[], bool]) -> None:
        """Watches the fleet until told to stop, or until its environment steps are done."""
        while not stop():
            totals = self.supervise()
            if 0 < self.settings.env_steps <= totals.get("steps", 0):
                return
            time.sleep(0.5)

    def supervise(self) -> dict[str, float]:
        """One round: collect counters, probe who was away, restart loops that ended with an error."""
        results = self._manager.foreach_actor("stats", timeout_seconds=2.0)
        alive = {result.actor_id: result.get() for result in results if result.ok}
        for index, stats in alive.items():
            if stats["error"]:
                self._restart(index, stats["error"])
        back = self._manager.probe_unhealthy_actors(timeout_seconds=0.5, mark_healthy=True)
        if back:
            log.warning("twin actor(s) %s are back", back)
        totals = _sum(list(alive.values()))
        self._log_success(totals)
        healthy = self._manager.num_healthy_actors()
        held = [stats["waits_for"] for stats in alive.values() if stats.get("waits_for")]
        waiting = held[:1]  # they all wait for the same policy server
        if healthy < len(self.actors):
            waiting.append(f"{len(self.actors) - healthy} twin actor(s) restarting")
        doing = f"{max(0, healthy - len(held))} of {len(self.actors)} twin actors step"
        self._status.write(doing=doing, waiting_for="; ".join(waiting), **totals, **self._weights())
        return totals

    def _weights(self) -> dict[str, float]:
        """What the policy server acts with; empty while it is away."""
        import ray

        try:
            stats = ray.get(self.server.stats.remote(), timeout=POLICY_STATS_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}
        return {name: stats[name] for name in WEIGHTS_RATES if name in stats}

    def _log_success(self, totals: dict[str, float]) -> None:
        """One line per `WINDOW_EPISODES` finished episodes: their success rate, exploration included.

        An actor that restarts counts from zero again; the window it falls into is left out.
        """
        episodes = totals["episodes"] - self._last["episodes"]
        if 0 <= episodes < WINDOW_EPISODES:
            return
        if episodes > 0:
            rate = (totals["successes"] - self._last["successes"]) / episodes
            self._metrics.write(step=int(totals["steps"]), total=self.settings.env_steps, success=rate)
        self._last = totals

    def _restart(self, index: int, error: str) -> None:
        import ray

        log.error("twin actor %d failed (%s); restarting it", index, error)
        ray.kill(self.actors[index], no_restart=False)


def _sum(stats: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("steps", "episodes", "successes", "bad_observations")
    return {key: float(sum(one.get(key, 0) for one in stats)) for key in keys}


def _start_ray(address: str) -> None:
    """Joins or starts Ray. A Ray of our own gets its own folder, so that several runs share a machine in peace."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        options |= {
            "num_cpus": max(2, os.cpu_count() or 2),
            "include_dashboard": False,
            "object_store_memory": 256 * 2**20,
            "_temp_dir": tempfile.mkdtemp(prefix="twinrl-ray-"),
            "runtime_env": {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        }
    started = time.monotonic()
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        waited = time.monotonic() - started
        raise Unreachable(
            f"Ray at {address}: no answer within {waited:.0f} s (limit {RAY_CONNECT_TIMEOUT_S:.0f} s)"
        ) from error
