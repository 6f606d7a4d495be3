"""The embedded server and the program that serves it."""

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from replay_samples import wait_until

from protos.errors import InputError, Unreachable
from services.replay import EmbeddedServer, ReplaySettings, totals


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
        monkeypatch.setattr("services.replay.server.LOCK_TIMEOUT_S", 0.1)
        with pytest.raises(InputError, match="served by another process"):
            EmbeddedServer(server.directory).start()
        assert server.running()

    def test_a_socket_path_that_is_too_long(self, tmp_path):
        with pytest.raises(InputError, match="limit is 107"):
            EmbeddedServer(tmp_path / ("x" * 120))

    def test_a_server_that_cannot_start_says_why(self, tmp_path):
        server = EmbeddedServer(tmp_path, socket=tmp_path / "missing" / "valkey.sock")
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


def test_the_program_explains_itself_in_one_line(tmp_path):
    command = [sys.executable, "-m", "services.replay", "--directory", str(tmp_path / ("x" * 120))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("socket path of")
    assert ended.stderr.count("\n") == 1
