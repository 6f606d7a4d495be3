"""This module measures how many transitions per second the server takes from writers that have nothing else to do, and
what each costs it.

Writers send segments that were encoded before; what is measured is spool, network, commit script, log and ring.
"""

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.measure import cpu_seconds, spread, table, take_turns
from benchmarks.peers.protocol import Job
from benchmarks.peers.writers import Writers
from benchmarks.replay.worker import BUFFER, connect_encoded, replay_settings
from services.replay import Durability, EmbeddedServer, ServerConfig, totals

LOGS: dict[str, Durability] = {"fsynced each second": "everysec", "none": "off"}
COLUMNS = (
    "server's log",
    "transitions/s",
    "MB/s",
    "server CPU per transition [µs]",
    "writers' CPU per transition [µs]",
)
UNLIMITED = 1e6
"""Transitions per second that writers at full speed are asked for."""


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """One round on one server."""

    per_s: float
    bytes_per_s: float
    server_us: float
    writer_us: float


class Server:
    """A server with its writers."""

    def __init__(self, job: Job, durability: Durability) -> None:
        self._server = EmbeddedServer(Path(job.folder) / "server", ServerConfig(durability=durability))
        self._job = replace(job, options={**job.options, "url": self._server.start()})
        self._writers = Writers(self._job, connect_encoded)

    def measure(self, seconds: float, warm_up_s: float, transition_bytes: float) -> Ingest:
        self._writers.write(UNLIMITED)
        time.sleep(warm_up_s)
        before, begin = self._state(), time.monotonic()
        time.sleep(seconds)
        after, elapsed = self._state(), time.monotonic() - begin
        self._writers.write(0.0)
        written, server_s, writers_s = (new - old for new, old in zip(after, before, strict=True))
        return Ingest(
            per_s=written / elapsed,
            bytes_per_s=written * transition_bytes / elapsed,
            server_us=1e6 * server_s / written,
            writer_us=1e6 * writers_s / written,
        )

    def close(self) -> None:
        self._writers.close()
        self._server.stop()

    def _state(self) -> tuple[float, float, float]:
        """Transitions committed, CPU seconds of the server with what it forked, CPU seconds of the writers."""
        written = totals(replay_settings(self._job))[BUFFER]
        return written, cpu_seconds([self._server.pid]), cpu_seconds(self._writers.pids())


def ingest_table(job: Job, *, rounds: int, seconds: float, warm_up_s: float, transition_bytes: float) -> str:
    """Both ways to keep the log, in turn; `job.options` needs codec and capacity_bytes."""
    with ExitStack() as stack:
        servers = {}
        for name, durability in LOGS.items():
            own = replace(job, folder=str(Path(job.folder) / durability))
            servers[name] = stack.enter_context(closing(Server(own, durability)))
        measures = {name: partial(each.measure, seconds, warm_up_s, transition_bytes) for name, each in servers.items()}
        found = take_turns(measures, rounds)
    return table(COLUMNS, [_row(name, results) for name, results in found.items()])


def _row(name: str, results: list[Ingest]) -> tuple[str, ...]:
    return (
        name,
        spread([each.per_s for each in results]),
        spread([each.bytes_per_s / 1e6 for each in results]),
        spread([each.server_us for each in results], 1),
        spread([each.writer_us for each in results], 1),
    )
