"""Tests the embedded server and the program that serves it."""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import redis
from replay_samples import make_segment, send, wait_until

from protos.errors import InputError, Unreachable
from services.net import free_port
from services.replay import EmbeddedServer, ReplaySettings, ServerConfig, memory_for, server_stats, totals
from services.replay.__main__ import Deaths, metrics_page


@pytest.fixture
def server(tmp_path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "server") as server:
        yield server


class TestEmbeddedServer:
    def test_its_socket_is_for_this_user_only(self, server):
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("port") == {"port": "0"} or client.config_get("port") == {b"port": b"0"}
            policy = client.config_get("maxmemory-policy")
        assert "noeviction" in str(policy)

    def test_a_directory_has_one_server(self, server, monkeypatch):
        monkeypatch.setattr("services.replay.server.server.LOCK_TIMEOUT_S", 0.1)
        with pytest.raises(InputError, match="served by another process"):
            EmbeddedServer(server.directory).start()
        assert server.running()

    def test_a_socket_path_that_is_too_long(self, tmp_path):
        with pytest.raises(InputError, match="limit is 107"):
            EmbeddedServer(tmp_path / ("x" * 120))

    def test_a_server_that_cannot_start_says_why(self, tmp_path):
        server = EmbeddedServer(tmp_path, ServerConfig(socket=tmp_path / "missing" / "valkey.sock"))
        with pytest.raises(Unreachable, match="ended with 1"):
            server.start()
        assert not server.running()

    def test_it_dies_with_the_process_that_started_it(self, tmp_path):
        script = (
            "import sys, time, pathlib; from services.replay import EmbeddedServer\n"
            "s = EmbeddedServer(pathlib.Path(sys.argv[1])); s.start(); print(s.pid, flush=True); time.sleep(60)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            pid = int(parent.stdout.readline())
            parent.kill()
        wait_until(lambda: not alive(pid))
        with EmbeddedServer(tmp_path):
            pass

    def test_its_memory_may_be_limited(self, tmp_path):
        with EmbeddedServer(tmp_path, ServerConfig(memory_bytes=64 << 20)) as server:
            assert server_stats(ReplaySettings(urls=(server.url,)))[0].memory_limit_bytes == 64 << 20
        with pytest.raises(InputError, match="memory_bytes=5: at least 1048576"):
            EmbeddedServer(tmp_path, ServerConfig(memory_bytes=5))

    def test_without_a_log_a_restart_begins_empty(self, tmp_path):
        with EmbeddedServer(tmp_path, ServerConfig(durability="off")) as server:
            settings = ReplaySettings(urls=(server.url,))
            assert not server_stats(settings)[0].logged
            send(settings, [make_segment(np.random.default_rng(0))])
            assert totals(settings)["twin"] == 4
            server.stop()
            server.start()
            assert totals(settings)["twin"] == 0

    def test_a_folder_with_odd_characters(self, tmp_path):
        odd = tmp_path / 'a "b" \\ c'
        with EmbeddedServer(odd) as server:
            assert (odd / "appendonlydir").is_dir() or list(odd.glob("*.aof"))
            with redis.Redis(unix_socket_path=str(server.socket)) as client:
                assert client.ping()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_a_signal(tmp_path, number):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        url = program.stdout.readline().strip()
        assert url == f"unix://{tmp_path}/valkey.sock"
        assert totals(ReplaySettings(urls=(url,)))["twin"] == 0
        program.send_signal(number)
        assert program.wait(20) == 0
    with pytest.raises(Unreachable):
        totals(ReplaySettings(urls=(url,)))


def test_the_program_serves_a_port_and_metrics(tmp_path):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path), "--listen", "127.0.0.1:0"]
    command += ["--metrics", "127.0.0.1:0", "--budget-bytes", str(1 << 30), "--prefix", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        local, remote = (program.stdout.readline().strip() for _ in range(2))
        assert remote.startswith("redis://127.0.0.1:")
        settings = ReplaySettings(urls=(remote,), prefix="mine", capacity_bytes=1 << 30)
        send(settings, [make_segment(np.random.default_rng(0))])
        assert totals(replace(settings, urls=(local,)))["twin"] == 4
        assert server_stats(settings)[0].memory_limit_bytes == memory_for(settings)
        program.terminate()
        assert program.wait(20) == 0
        said = program.stderr.read()
    (page,) = re.findall(r"http://127\.0\.0\.1:\d+/metrics", said)
    assert page


def test_the_metrics_page_tells_of_this_server(server):
    settings = ReplaySettings(urls=(server.url,), prefix="mine")
    send(settings, [make_segment(np.random.default_rng(0))])
    with (
        metrics_page("127.0.0.1:0", settings, Deaths()) as server_page,
        urlopen(f"http://{server_page.address}/metrics", timeout=20) as page,
    ):
        text = page.read().decode()
    assert re.search(r'twinrl_replay_transitions_total\{buffer="twin",shard="0"\} 4\.0', text)
    assert re.search(r'twinrl_replay_up\{shard="0"\} 1\.0', text)


def test_the_program_starts_a_server_again_that_died_and_gives_up_when_it_dies_again_and_again(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path), "--metrics", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        settings = ReplaySettings(urls=(program.stdout.readline().strip(),))
        send(settings, [make_segment(np.random.default_rng(0))])
        assert server_stats(settings)[0].version  # it answers
        pid = process_id(settings)
        for death in range(1, 6):
            os.kill(pid, signal.SIGKILL)
            if death < 5:
                wait_until(lambda before=pid: process_id(settings) not in (0, before))
                pid = process_id(settings)
                assert totals(settings)["twin"] == 4
            if death == 1:
                with urlopen(f"http://{address}/metrics", timeout=20) as page:
                    assert "twinrl_replay_restarts_total 1.0" in page.read().decode()
        assert program.wait(30) == 2
        said = program.stderr.read()
    assert said.count("ended by itself") == 4
    assert re.match(r"twinrl: the replay server in .* ended 5 times within 300 s", said.splitlines()[-1])


def process_id(settings: ReplaySettings) -> int:
    """Returns the number of the server's process, 0 while none answers."""
    try:
        with redis.Redis.from_url(settings.urls[0]) as client:
            return int(client.info("server")["process_id"])
    except redis.RedisError:
        return 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--listen", "0.0.0.0:0"], "beyond 127.0.0.1 the replay needs credentials"),
        (["--listen", "nowhere"], "address 'nowhere': write host:port"),
        (["--metrics", "0.0.0.0:0"], "listens on 127.0.0.1 only"),
    ],
)
def test_the_program_refuses_to_open_itself_to_everybody(tmp_path, options, text):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert text in ended.stderr.splitlines()[-1]


def test_the_program_explains_itself_in_one_line(tmp_path):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path / ("x" * 120))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("twinrl: socket path of")
    assert ended.stderr.count("\n") == 1
