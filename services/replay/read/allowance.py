"""The learner's side of the sample-to-insert limit: how many transitions writers may have added, per buffer."""

import time

from protos.schema import Buffer
from services.replay.connection import Client
from services.replay.settings import Keys

REPEAT_S = 1.0
"""A restarted server may have lost the latest allowance, so each is sent again even when it has not changed."""


class Allowances:
    """Set by the learner at any time, sent by the thread that talks to the replay."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client, self._prefix = client, prefix
        self._wanted: dict[Buffer, int] = {}
        self._sent: dict[Buffer, int] = {}
        self._repeat_at_s = 0.0

    def set(self, buffer: Buffer, total: int) -> None:
        """Raises InputError for a buffer that does not exist."""
        Keys(self._prefix, buffer)
        self._wanted[buffer] = total

    def send(self) -> None:
        """Sends what changed, and once a second everything. Raises redis errors."""
        wanted = dict(self._wanted)
        if wanted == self._sent and time.monotonic() < self._repeat_at_s:
            return
        for buffer, total in wanted.items():
            self._client.execute_command("SET", Keys(self._prefix, buffer).allowance, total)
        self._sent = wanted
        self._repeat_at_s = time.monotonic() + REPEAT_S
