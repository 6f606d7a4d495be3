"""The weights service as a process, and a publisher and subscribers around it."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import psutil

from benchmarks.measure import cpu_seconds
from benchmarks.weights.worker import Worker
from protos import weights_pb2 as pb
from protos.errors import Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.net import LOOPBACK, Credentials, open_channel
from services.net.certificates import make_certificates
from services.weights import WireDtype

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CALL_TIMEOUT_S = 10.0
ROLES = "benchmarks.weights.roles"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Credentials of both sides; the default is none."""

    server: Credentials = LOOPBACK
    publisher: Credentials = LOOPBACK
    subscribers: Credentials = LOOPBACK
    monitor: Credentials = LOOPBACK

    @classmethod
    def made(cls, folder: Path) -> "Trust":
        """Token and certificates of a new authority, for mutual TLS, by role."""
        made = make_certificates(folder, hosts=("127.0.0.1", "localhost"))
        return cls(server=made["server"], publisher=made["learner"], subscribers=made["twin"], monitor=made["monitor"])


def paths_of(credentials: Credentials) -> dict[str, str]:
    """The credentials' files by name, as `weights_roles.credentials_of` takes them."""
    return {name: str(path) for name, path in vars(credentials).items() if path is not None}


class WeightsServer:
    """`python -m services.weights` with its store in `folder`; restarts on the same port."""

    def __init__(self, folder: Path, credentials: Credentials = LOOPBACK) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._credentials, self._port = folder, credentials, 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self) -> None:
        """Returns when the server listens. Raises Unreachable with the end of its log when it does not."""
        port_file, log = self._folder / "port", self._folder / "server.log"
        port_file.unlink(missing_ok=True)
        command = ["-m", "services.weights", "--listen", self.address, "--port-file", str(port_file)]
        command += ["--store", str(self._folder / "store")]
        for name, path in paths_of(self._credentials).items():
            command += [f"--credentials.{name}", path]
        with log.open("ab") as output:
            self._process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
        give_up = time.monotonic() + START_TIMEOUT_S
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                last = " ".join(log.read_text(errors="replace").splitlines()[-1:])
                raise Unreachable(f"weights service did not listen within {START_TIMEOUT_S:g} s: {last}")
            time.sleep(0.02)
        self._port = int(port_file.read_text())

    def kill(self) -> None:
        """SIGKILL, as if the machine's memory had run out."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def memory(self) -> tuple[int, int]:
        """Resident bytes, now and the most there ever were."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        kilobytes = {line.split()[0]: int(line.split()[1]) for line in status.splitlines() if line.startswith("Vm")}
        return kilobytes["VmRSS:"] << 10, kilobytes["VmHWM:"] << 10

    def connections(self) -> int:
        """TCP connections that clients have open."""
        connections = psutil.Process(self.pid).net_connections("tcp")
        return sum(connection.status == psutil.CONN_ESTABLISHED for connection in connections)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def watchers_of(address: str, credentials: Credentials = LOOPBACK) -> list[str]:
    """Names of those whom the server lists as watching."""
    with contextlib.closing(open_channel(address, credentials)) as channel:
        stub = WeightsStub(channel)  # type: ignore[no-untyped-call]
        try:
            status = stub.Status(pb.WeightsStatusRequest(), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Unreachable(f"weights service at {address}: {error.details()}") from error
        return [watcher.name for watcher in status.watchers]


@dataclass(kw_only=True)
class Fleet:
    """A publisher, those who receive, and the processes between them by what they are called in tables."""

    publisher: Worker
    receivers: list[Worker]
    pids: dict[str, list[int]] = field(default_factory=dict)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far by kind of process."""
        return {name: cpu_seconds(pids) for name, pids in self.pids.items()}


@contextlib.contextmanager
def gathered(
    server: WeightsServer,
    folder: Path,
    *,
    parameters: int,
    wire: WireDtype,
    subscribers: int,
    trust: Trust,
    digests: bool = False,
    address: str | None = None,
) -> Iterator[Fleet]:
    """A publisher and subscribers, each a process, around a server; subscribers connect to `address` if given."""
    log, publishes, follows = folder / "workers.log", paths_of(trust.publisher), paths_of(trust.subscribers)
    options = {"address": server.address, "parameters": parameters, "wire": wire, "credentials": publishes}
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(Worker(f"{ROLES}:Publisher", options, log=log))
        receivers = []
        for number in range(subscribers):
            follow = {"address": address or server.address, "names": [f"node-{number}"], "credentials": follows}
            worker = Worker(f"{ROLES}:Subscribers", {**follow, "digests": digests}, log=log)
            receivers.append(stack.enter_context(worker))
        pids = {"server": [server.pid], "publisher": [publisher.pid], "subscribers": [w.pid for w in receivers]}
        yield Fleet(publisher=publisher, receivers=receivers, pids=pids)
