"""This module reads a replay's servers with plain Redis commands, and runs actors in processes of their own."""

import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

from replay_samples import wait_until

from protos.codec import read_header
from services.replay import Keys, ReplaySettings, connect

Name = tuple[str, str, int]
"""Actor, incarnation, number: the name of a segment."""


def names_held(settings: ReplaySettings, buffer="twin") -> Counter[Name]:
    """Counts each segment in the rings of all shards; checks each entry against the bytes in its slot."""
    found: Counter[Name] = Counter()
    keys = Keys(settings.prefix, buffer)
    for shard in range(settings.shards):
        with closing(connect(settings, shard)) as client:
            for _, fields in client.execute_command("XRANGE", keys.index, "-", "+"):
                entry = {name.decode(): value.decode() for name, value in fields.items()}
                header = read_header(client.execute_command("GET", keys.slots + entry["ring"]))
                name = header.actor, header.incarnation, header.seq
                assert name == (entry["actor"], entry["incarnation"], int(entry["seq"]))
                assert entry["episode"] == header.episode
                found[name] += 1
    return found


class ActorProcess:
    """An actor process adds one segment after another until it is stopped or killed."""

    def __init__(self, settings: ReplaySettings, name: str, spool: Path) -> None:
        command = [sys.executable, __file__, settings.urls[0], name, str(spool)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.added: list[Name] = []
        """Segments for which `add` has returned."""
        self.left = -1
        """Segments unsent at the end."""
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """Lets it send everything; `left` is 0 then."""
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()
        self._end()

    def await_progress(self, count: int) -> None:
        goal = len(self.added) + count
        wait_until(lambda: len(self.added) >= goal)

    def _listen(self) -> None:
        for line in self._process.stdout:
            if line.endswith("\n"):
                kind, *words = line.split()
                if kind == "added":
                    self.added.append((words[0], words[1], int(words[2])))
                else:
                    self.left = int(words[0])

    def _end(self) -> None:
        self._thread.join(60)
        self._process.wait(60)
        self._process.stdin.close()
        self._process.stdout.close()


def act(url: str, name: str, spool: str) -> None:
    import numpy as np
    from replay_samples import SCHEMA, make_segment

    from services.replay import ReplayWriter

    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    rng = np.random.default_rng(0)
    with ReplayWriter(ReplaySettings(urls=(url,)), SCHEMA, actor=name, spool=Path(spool)) as writer:
        ahead = [writer.encode(make_segment(rng, steps=1, episode=f"{name}/{i}")) for i in range(8)]
        count = 0
        while not stop.wait(0.002):
            writer.wait_for_allowance("twin", stop.is_set)
            writer.add_encoded(ahead[count % 8], ("twin",))
            sys.stdout.write(f"added {name} {writer.incarnation} {count}\n")
            sys.stdout.flush()
            count += 1
        sys.stdout.write(f"left {writer.flush(40)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    act(*sys.argv[1:])
