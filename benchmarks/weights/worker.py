"""A process of a benchmark that does what it is asked, one JSON line each way.

    Worker.ask("publish") ── {"do": "publish"} ──► stdin   a role's method   stdout ── {"version": 7} ──► answer

`python -m benchmarks.weights.worker ROLE OPTIONS` is the far end; it ends with its stdin, so it never outlives the
benchmark.
"""

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protos.errors import TwinRLError, Unreachable

ANSWER_TIMEOUT_S = 120.0
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0


class Worker:
    """A process that plays `role`, "module:class", made with the keyword arguments `options`."""

    def __init__(self, role: str, options: Mapping[str, Any], *, log: Path) -> None:
        self.role, self._log = role, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.weights.worker", role, json.dumps(dict(options))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name=f"answers-{self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> Any:
        """Calls a method of the role and waits for what it returns. Raises Unreachable or what `answer` does."""
        self.send(do, **arguments)
        return self.answer(timeout_s)

    def send(self, do: str, **arguments: Any) -> None:
        """Calls a method without waiting; `answer` gives what it returns."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Unreachable(self._end()) from error

    def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Returns the answer to the oldest call that has none yet. Raises TwinRLError with the role's own complaint."""
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise Unreachable(f"{self.role}, pid {self.pid}, did not answer within {timeout_s:g} s") from None
        if not line:
            raise Unreachable(self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise TwinRLError(f"{self.role}: {answer['error']}")
        return answer["result"]

    def signal(self, number: signal.Signals) -> None:
        """Sends the process a signal, for example SIGSTOP."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Ends the process: asks it, then kills it."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOP_TIMEOUT_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _end(self) -> str:
        tail = self._log.read_text(errors="replace").splitlines()[-1:]
        return f"{self.role}, pid {self.pid}, ended: {' '.join(tail) or 'without a word'}"


def ask_all(workers: Sequence[Worker], do: str, *, timeout_s: float = ANSWER_TIMEOUT_S, **arguments: Any) -> list[Any]:
    """Calls the same method of every worker at the same time; the answers in their order."""
    for worker in workers:
        worker.send(do, **arguments)
    return [worker.answer(timeout_s) for worker in workers]


def serve(role: str, options: dict[str, Any]) -> None:
    """Answers lines of stdin until it ends."""
    module, _, name = role.partition(":")
    player = getattr(importlib.import_module(module), name)(**options)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not pass for an answer
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(player, request.pop("do"))(**request)}
        except TwinRLError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    player.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the benchmark, and that ends us
    serve(sys.argv[1], json.loads(sys.argv[2]))
