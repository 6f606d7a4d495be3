"""A fleet starts Ray, the policy server and the twin actors, and keeps them running.

    twin actors ──stats──► FleetWatch ──► begin, kill ──► twin actors
                  faults─► FaultLog ──► quarantine.jsonl, status; starts to avoid ──► actors that begin

Ray restarts a dead actor process (`max_restarts=-1`); RLlib's FaultTolerantActorManager finds out which one was away
and probes it back into service. An actor whose loop ended with an error, or that makes no progress, is killed, which
restarts it too; the watch decides when it begins again. Nothing here touches a transition: actors write to replay
themselves, so the fleet may end and start again without losing data.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.quarantine import FaultLog
from actors.sim.policy_server import PolicyServer
from actors.sim.ray_session import actor_manager, start_ray, warm_environment
from actors.sim.settings import FleetSettings
from actors.sim.twin_actor import POLICY_SERVER, TwinActor
from actors.sim.watch import FleetWatch, Verdict
from protos.status import StatusFile
from services.telemetry import MetricsLog
from twin import tasks

if TYPE_CHECKING:
    from ray.actor import ActorHandle

log = logging.getLogger(__name__)

WINDOW_EPISODES = 20
RATE_WINDOW_S = 30.0
"""Time over which transitions per second and scans per minute are taken."""
ROUND_S, ROUND_PER_ACTOR_S = 0.5, 0.01
"""Pause between two rounds: asking hundreds of actors costs as much as their steps."""
ANSWER_TIMEOUT_S = 1.0
"""Deadline of one round; a later answer is taken in the next one."""
COUNTS = ("steps", "episodes", "successes", "scans", "scan_successes")
TROUBLES = ("bad_observations", "quarantined_slots", "stalls", "restarts")
WEIGHTS_RATES = ("version", "versions_behind", "weights_age_s", "weights_silent_s")
"""Stats of the policy server that the fleet's status shows."""


class Fleet:
    """Runs a policy server and `settings.actors` twin actors; a context manager."""

    def __init__(self, settings: FleetSettings) -> None:
        self.settings = settings
        self._status = StatusFile()
        self._metrics = MetricsLog(settings.run_dir / "metrics.jsonl", stage=settings.stage)
        self._watch = FleetWatch(settings.actors, stall_s=settings.stall_s)
        self._faults = FaultLog(settings.run_dir / "quarantine.jsonl")
        self._last: dict[str, float] = dict.fromkeys(COUNTS, 0.0)
        self._pace: deque[tuple[float, dict[str, float]]] = deque()
        self.stats: dict[int, dict[str, Any]] = {}
        """The last stats of each actor."""

    def __enter__(self) -> "Fleet":
        self._status.write(doing="starting Ray", waiting_for="ray")
        start_ray(self.settings.ray_address)
        import ray

        instruction = tasks.get(self.settings.world.task).instruction
        server = ray.remote(num_cpus=0.1, max_restarts=-1, max_concurrency=1000)(PolicyServer)
        self.server: ActorHandle = server.options(name=POLICY_SERVER).remote(self.settings, instruction)
        options: dict[str, Any] = {"num_cpus": self.settings.actor_cpus, "max_restarts": -1, "max_concurrency": 4}
        if self.settings.warm_start:
            options["runtime_env"] = warm_environment(self.settings.world)
        twin_actor = ray.remote(**options)(TwinActor)
        self.actors: list[ActorHandle] = [twin_actor.remote(self.settings, i) for i in range(self.settings.actors)]
        self._manager = actor_manager()(self.actors, max_remote_requests_in_flight_per_actor=2)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        self._status.write(doing="stopping", waiting_for="")
        # what is not sent by then lies in the spool; a supervisor gives us four seconds in all
        self._manager.foreach_actor("stop", kwargs={"timeout_s": 1.0}, timeout_seconds=1.5)
        ray.shutdown()
        self._faults.close()
        self._metrics.close()

    def run(self, stop: Callable[[], bool]) -> None:
        """Watches the fleet until told to stop, or until its environment steps are done."""
        while not stop():
            totals = self.supervise()
            if 0 < self.settings.env_steps <= totals.get("steps", 0):
                return
            time.sleep(ROUND_S + ROUND_PER_ACTOR_S * self.settings.actors)

    def supervise(self) -> dict[str, float]:
        """Runs one round: collects counters, probes actors that were away, begins and kills actors."""
        manager = self._manager
        manager.foreach_actor_async("stats", tag="stats")
        results = manager.fetch_ready_async_reqs(tags="stats", timeout_seconds=ANSWER_TIMEOUT_S)
        answers = {result.actor_id: result.get() for result in results if result.ok}
        back = manager.probe_unhealthy_actors(timeout_seconds=ANSWER_TIMEOUT_S, mark_healthy=True)
        if back:
            log.warning("twin actor(s) %s are back", back)
        for index in range(len(self.actors)):
            answer = answers.get(index)
            verdict = self._watch.silent(index) if answer is None else self._watch.seen(index, answer)
            self._act(index, verdict)
        self._collect_faults(answers)
        self.stats |= answers
        totals = _sum(list(self.stats.values()))
        totals |= {"restarts": float(self._watch.restarts), "stalls": float(self._watch.stalls)}
        totals |= self._rates(totals) | self._weights()
        self._log_success(totals)
        self._status.write(doing=self._doing(), waiting_for=self._waiting_for(), **totals)
        return totals

    def _act(self, index: int, verdict: Verdict) -> None:
        """Begins or kills an actor."""
        import ray

        if verdict == "begin":
            self.actors[index].begin.remote(self._faults.avoid)
        elif verdict == "kill":
            reason = self._watch.reason(index)
            log.error("twin actor %d: %s; restarting it", index, reason)
            self._faults.killed(f"twin-{index}", reason, self._standing(index))
            ray.kill(self.actors[index], no_restart=False)

    def _standing(self, index: int) -> list[list[str]]:
        """Returns the starts of the slots of an actor's groups; empty when it does not answer."""
        import ray

        try:
            return ray.get(self.actors[index].standing.remote(), timeout=ANSWER_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return []

    def _collect_faults(self, answers: dict[int, dict[str, Any]]) -> None:
        """Asks those actors for their faults that have more than before."""
        known = {index: stats.get("faults", 0) for index, stats in self.stats.items()}
        more = [index for index, stats in answers.items() if stats.get("faults", 0) > known.get(index, 0)]
        if more:
            results = self._manager.foreach_actor("faults", remote_actor_ids=more, timeout_seconds=ANSWER_TIMEOUT_S)
            self._faults.add([fault for result in results if result.ok for fault in result.get()])

    def _doing(self) -> str:
        """Returns how many actors step, and which slots are out, in one line."""
        away = self._away()
        heard = [stats for index, stats in self.stats.items() if index not in away]
        stepping = sum(stats["began"] and not stats["error"] and not stats.get("waits_for") for stats in heard)
        line = f"{stepping} of {len(self.actors)} twin actors step"
        out = [f"twin-{index} {one}" for index, stats in self.stats.items() for one in stats.get("quarantined", [])]
        return f"{line}; quarantined: {_first_of(out)}" if out else line

    def _away(self) -> set[int]:
        """Returns the actors that are not heard now: silent for some seconds, or known to have ended."""
        return self._watch.lost() | (set(range(len(self.actors))) - {*self._manager.healthy_actor_ids()})

    def _waiting_for(self) -> str:
        away = self._away()
        held = [stats["waits_for"] for i, stats in self.stats.items() if stats.get("waits_for") and i not in away]
        waiting = held[:1]  # they all wait for the same policy server
        if away:
            waiting.append(f"{len(away)} twin actor(s) lost or restarting")
        if paused := self._watch.paused():
            waiting.append(_first_of(paused))
        return "; ".join(waiting)

    def _weights(self) -> dict[str, float]:
        """Returns version and staleness of the policy server's weights; empty while it is away."""
        import ray

        try:
            stats = ray.get(self.server.stats.remote(), timeout=ANSWER_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return {}
        return {name: stats[name] for name in WEIGHTS_RATES if name in stats}

    def _rates(self, totals: dict[str, float]) -> dict[str, float]:
        """Returns transitions per second and scans per minute of the last half minute."""
        now = time.monotonic()
        self._pace.append((now, totals))
        while now - self._pace[0][0] > RATE_WINDOW_S:
            self._pace.popleft()
        since, first = self._pace[0]
        seconds = max(now - since, ROUND_S)
        per_second = {name: max(0.0, totals[name] - first[name]) / seconds for name in ("steps", "scans")}
        return {"transitions_per_s": per_second["steps"], "scans_per_min": 60.0 * per_second["scans"]}

    def _log_success(self, totals: dict[str, float]) -> None:
        """Writes a line per `WINDOW_EPISODES` finished episodes, scans included: success, pace, troubles.

        Success of collecting actors is with exploration, that of scans without. An actor that restarts counts from zero
        again; the window it falls into is left out.
        """
        new = {name: totals[name] - self._last[name] for name in COUNTS}
        if min(new.values()) >= 0 and new["episodes"] + new["scans"] < WINDOW_EPISODES:
            return
        self._last = {name: totals[name] for name in COUNTS}
        if min(new.values()) < 0:
            return
        line = {name: totals[name] for name in (*TROUBLES, "transitions_per_s")}
        if new["episodes"]:
            line["success"] = new["successes"] / new["episodes"]
        if self.settings.scanning:
            line |= {name: totals[name] for name in ("scans", "scans_per_min", "version") if name in totals}
        if new["scans"]:
            line["scan_success"] = new["scan_successes"] / new["scans"]
        self._metrics.write(step=int(totals["steps"]), total=self.settings.env_steps, **line)


def _first_of(lines: list[str]) -> str:
    return lines[0] if len(lines) == 1 else f"{lines[0]}, and {len(lines) - 1} more"


def _sum(stats: list[dict[str, Any]]) -> dict[str, float]:
    """Adds the actors' counters up; episodes of scanning actors are counted as scans, not among the others."""
    collecting = [one for one in stats if "scan" not in one]
    scans = [one["scan"] for one in stats if "scan" in one]
    totals = {key: float(sum(one.get(key, 0) for one in collecting)) for key in ("steps", "episodes", "successes")}
    totals["bad_observations"] = float(sum(one.get("bad_observations", 0) for one in stats))
    totals["quarantined_slots"] = float(sum(len(one.get("quarantined", [])) for one in stats))
    totals["scans"] = float(sum(one["scans"] for one in scans))
    totals["scan_successes"] = float(sum(one["successes"] for one in scans))
    return totals
