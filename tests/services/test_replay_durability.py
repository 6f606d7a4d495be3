"""Tests that the spool is trimmed only behind the server's disk, on servers whose disk hangs and whose power is cut."""

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hung_disk import fsyncs_done, hung_disk
from replay_ledger import names_held
from replay_samples import SCHEMA, Names, make_segment, names_in, wait_until

from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, connect
from services.replay.write.sender import FSYNC_STARTS_S, PROBE_INTERVAL_S, DurabilityProbe

BEYOND_S = 1.5 * (FSYNC_STARTS_S + 2 * PROBE_INTERVAL_S)
"""More than the time after which a commit is durable where nothing hangs."""


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


def spooled(folder: Path) -> int:
    """Counts the segments in a spool with a file for each; the newest always stays, for its number."""
    return len(list(folder.glob("*.spool")))


@pytest.mark.parametrize("safe", [3, 0])
def test_what_the_log_lost_is_still_in_the_spool_and_arrives_once(server, tmp_path, monkeypatch, safe):
    """The disk hangs after `safe` segments; the server goes on to acknowledge four, and its power is cut."""
    monkeypatch.setattr("services.replay.write.spool.FILE_BYTES", 1)
    settings, folder, followed = ReplaySettings(urls=(server.url,)), tmp_path / "spool", Names()
    with (
        ReplayWriter(settings, SCHEMA, actor="arm", incarnation="life", spool=folder) as writer,
        followed.reader(settings) as reader,
    ):

        def add(*numbers: int) -> None:
            for number in numbers:
                writer.add(make_segment(np.random.default_rng(number), episode=f"e{number}"), ("twin", "human"))
            assert writer.flush(60) == 0

        add(*range(safe))
        wait_until(lambda: spooled(folder) == 1)
        with hung_disk(server) as disk:
            add(*range(safe, safe + 4))
            wait_until(lambda: reader.counts()["twin"] == 4 * (safe + 4))
            threading.Event().wait(BEYOND_S)
            assert spooled(folder) >= 4
            disk.cut_power()
            server.start()
        add(safe + 4, safe + 5)
        wait_until(lambda: spooled(folder) == 1)
        assert writer.stats()["sent"] == 2 * (safe + 4 + 4 + 2), "the log had lost four, of both buffers"
        expected = [f"e{number}" for number in range(safe + 6)]
        wait_until(lambda: reader.counts()["twin"] == 4 * (safe + 6))
        assert sorted(followed.names) == sorted(names_in(settings)) == expected
    names = {("arm", "life", seq): 1 for seq in range(safe + 6)}
    assert names_held(settings) == names_held(settings, "human") == names


class TestProbe:
    """A commit is durable when an fsync that started after it has ended, and not before."""

    @pytest.fixture
    def client(self, server):
        with closing(connect(ReplaySettings(urls=(server.url,)))) as client:
            yield client

    def test_every_durable_commit_has_an_fsync_behind_it(self, server, client):
        probe = DurabilityProbe(client)
        for number in range(1, 3):
            wait_until(lambda: not int(client.execute_command("INFO", "persistence")["aof_pending_bio_fsync"]))
            before = fsyncs_done(server)
            client.execute_command("SET", "commit", number)
            wait_until(lambda number=number: probe.update(number) == number)
            assert fsyncs_done(server) > before

    def test_a_disk_that_hangs_makes_nothing_durable_until_it_goes_on(self, server, client):
        """The server is written to all the time, and writes its log after its delay of two seconds."""
        probe, pause = DurabilityProbe(client), threading.Event()
        with hung_disk(server):
            client.execute_command("SET", "commit", 1)
            for turn in count():
                client.execute_command("SET", "other", turn)
                assert probe.update(1) == 0
                delayed = int(client.execute_command("INFO", "persistence")["aof_delayed_fsync"])
                if turn * 0.05 > BEYOND_S and delayed:
                    break
                pause.wait(0.05)
        wait_until(lambda: probe.update(1) == 1)

    def test_a_slow_disk_makes_commits_durable_though_an_fsync_is_always_under_way(self):
        """Each fsync takes 1.5 s and the next starts with its end; the log grows in between."""
        server = SlowDisk(fsync_s=1.5)
        probe = DurabilityProbe(server, now=lambda: server.now_s)
        durable = 0
        for commit in range(1, 60):
            server.commit()
            durable = probe.update(commit)
            assert durable <= server.synced
            server.pass_time(0.25)
        assert durable > 30

    @pytest.mark.parametrize("fsync_s", [0.01, 0.4, 0.9, 1.1, 2.5, 4.0])
    def test_no_speed_of_a_disk_makes_a_commit_durable_too_early(self, fsync_s):
        rng = np.random.default_rng(0)
        server = SlowDisk(fsync_s=fsync_s)
        probe = DurabilityProbe(server, now=lambda: server.now_s)
        for commit in range(1, 2_000):
            server.commit()
            assert probe.update(commit) <= server.synced
            server.pass_time(rng.exponential(0.1))
        assert server.synced > 0
        assert probe.update(2_000) > 0

    def test_a_log_that_cannot_be_written_makes_nothing_durable(self):
        server = SlowDisk(fsync_s=0.01, status="err")
        probe = DurabilityProbe(server, now=lambda: server.now_s)
        for _ in range(100):
            server.pass_time(0.1)
            assert probe.update(1) == 0

    def test_a_server_without_a_log_makes_commits_durable_in_time(self):
        """Nothing can be asked then: a commit is as safe as it ever will be."""
        now = [0.0]

        class WithoutLog:
            def execute_command(self, *_):
                now[0] += 0.1
                return {"aof_enabled": 0}

        probe = DurabilityProbe(WithoutLog(), now=lambda: now[0])
        while probe.update(1) == 0:
            now[0] += 0.1
        assert now[0] > FSYNC_STARTS_S


class SlowDisk:
    """This model of a server's log follows `everysec`: an fsync a second, for which writes wait two seconds at most."""

    def __init__(self, *, fsync_s: float, status: str = "ok") -> None:
        self.now_s, self.synced = 0.0, 0
        self._fsync_s, self._status = fsync_s, status
        self._commits = self._written = self._delayed = 0
        self._last_fsync_s, self._ends_s, self._covers, self._postponed_s = 0.0, None, 0, None

    def commit(self) -> None:
        """Takes a commit and acknowledges it."""
        self._commits += 1
        self._turn()

    def pass_time(self, seconds: float) -> None:
        """Runs the server's loop for a while, ten times a second."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(self.now_s + 0.1, end_s)
            self._turn()

    def execute_command(self, *command: str) -> dict[str, object]:
        """Answers INFO persistence."""
        assert command == ("INFO", "persistence")
        self.pass_time(0.003)
        return {
            "aof_enabled": 1,
            "aof_last_write_status": self._status,
            "aof_current_size": 100 * self._written,
            "aof_buffer_length": 100 * (self._commits - self._written),
            "aof_delayed_fsync": self._delayed,
            "aof_pending_bio_fsync": int(self._ends_s is not None),
        }

    def _turn(self) -> None:
        if self._ends_s is not None and self.now_s >= self._ends_s:
            self.synced, self._ends_s = self._covers, None
        if self._written < self._commits:
            if self._ends_s is not None:
                self._postponed_s = self.now_s if self._postponed_s is None else self._postponed_s
                if self.now_s - self._postponed_s < 2:
                    return
                self._delayed += 1
            self._postponed_s, self._written = None, self._commits
        if self.now_s - self._last_fsync_s >= 1:
            if self._ends_s is None and self._covers < self._written:
                self._ends_s, self._covers = self.now_s + self._fsync_s, self._written
            self._last_fsync_s = self.now_s
