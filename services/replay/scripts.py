"""This module holds the atomic operations on a buffer, a Lua script each. They run on any Redis or Valkey from 6.2 on.

A writer sends, in one pipeline, `SET stage <segment> PX 60000` and the commit script, which moves the staged bytes into
the ring without copying them. A segment whose commit never comes expires by itself; one whose commit comes twice is
refused the second time, because each actor incarnation's last number is kept beside the ring.

    stage ──RENAME──► slot n of the ring        ring: slots tail … head; the oldest go while it holds too many bytes
          └─XADD────► index stream              one entry per slot of the ring, so the stream is trimmed with it

Slots are named by their number in the ring under one prefix. A script learns the number only while it runs; every other
key is declared, and those of a buffer share its hash tag. The clients here speak to single servers and refuse the node
of a cluster, because they follow no redirections.

What a learner writes carries the number of its lease (`services.replay.lease`): below the newest that the server has
seen it is refused, so one that lost its lease while it stood still changes nothing when it goes on.

A server at its maxmemory refuses `SET` but not the commit of what is staged already: the commit begins with `PERSIST`,
which needs no memory, and a script that has written may go on. So a ring that holds its budget within maxmemory always
makes room for the next segment by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha1
from typing import Any

import redis

from protos.errors import InputError
from services.replay.connection import Commands
from services.replay.settings import Keys

STAGE_TTL_MS = 60_000


class Verdict(IntEnum):
    """A verdict names what the commit script did."""

    COMMITTED = 1
    REPEATED = 0
    """This number is already there; nothing changed."""
    STAGE_MISSING = -1
    """The staged bytes have expired: send them again."""
    GAP = -2
    """The writer's idea of its last number is wrong, because the server has lost its latest: go back to `last`."""


@dataclass(frozen=True)
class CommitReply:
    """A reply tells a writer what came of a commit."""

    verdict: Verdict
    ring: int
    """Number of the slot, 0 when none was filled."""
    last: int
    """This incarnation's last committed number, -1 before the first."""
    transitions: int
    """Ever committed to the buffer, by everyone."""
    allowance: int | None
    """Transitions that may be committed in total; None without a limit."""


# KEYS  1 stage   2 prefix of the slots   3 index stream   4 seen   5 counters   6 allowance
# ARGV  1 actor/incarnation   2 the writer's last committed seq   3 this seq   4 transitions in it   5 capacity in bytes
#       6… further fields and values for the index entry
COMMIT = """
local last = tonumber(redis.call('HGET', KEYS[4], ARGV[1]) or '-1')
local allowance = tonumber(redis.call('GET', KEYS[6]) or '-1')
local seq = tonumber(ARGV[3])
local total = tonumber(redis.call('HGET', KEYS[5], 'transitions') or '0')
if seq <= last then
  redis.call('UNLINK', KEYS[1])
  return {0, 0, last, total, allowance}
end
if tonumber(ARGV[2]) ~= last then
  redis.call('UNLINK', KEYS[1])
  return {-2, 0, last, total, allowance}
end
local bytes = redis.call('STRLEN', KEYS[1])
if bytes == 0 then
  return {-1, 0, last, total, allowance}
end
redis.call('PERSIST', KEYS[1])
local head = redis.call('HINCRBY', KEYS[5], 'head', 1)
redis.call('RENAME', KEYS[1], KEYS[2] .. head)
redis.call('HSET', KEYS[4], ARGV[1], seq)
total = redis.call('HINCRBY', KEYS[5], 'transitions', ARGV[4])
local held = redis.call('HINCRBY', KEYS[5], 'bytes', bytes)
local tail = tonumber(redis.call('HGET', KEYS[5], 'tail') or '1')
while held > tonumber(ARGV[5]) and tail < head do
  local oldest = KEYS[2] .. tail
  held = redis.call('HINCRBY', KEYS[5], 'bytes', -redis.call('STRLEN', oldest))
  redis.call('UNLINK', oldest)
  tail = tail + 1
end
redis.call('HSET', KEYS[5], 'tail', tail, 'capacity', ARGV[5])
redis.call('XADD', KEYS[3], 'MAXLEN', head - tail + 1, '*',
  'ring', head, 'seq', seq, 'steps', ARGV[4], 'transitions', total, 'bytes', bytes, unpack(ARGV, 6))
return {1, head, seq, total, allowance}
"""

# KEYS  1 prefix of the slots   2 counters
# ARGV  1 capacity in bytes
# Drops the oldest segments above the capacity; their index entries go with the next commit. The first write frees
# memory, so a full server does not refuse it.
SHRINK = """
local head = tonumber(redis.call('HGET', KEYS[2], 'head') or '0')
local tail = tonumber(redis.call('HGET', KEYS[2], 'tail') or '1')
local held = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local first = tail
while held > tonumber(ARGV[1]) and tail < head do
  local oldest = KEYS[1] .. tail
  held = held - redis.call('STRLEN', oldest)
  redis.call('UNLINK', oldest)
  tail = tail + 1
end
if tail > first then
  redis.call('HSET', KEYS[2], 'tail', tail, 'bytes', held)
end
return tail - first
"""

# KEYS  1 prefix of the slots   2 index stream   3 counters   4 allowance
# Empties the ring. Slot numbers and the writers' last numbers go on, so that nothing is sent again.
CLEAR = """
local head = tonumber(redis.call('HGET', KEYS[3], 'head') or '0')
local tail = tonumber(redis.call('HGET', KEYS[3], 'tail') or '1')
for ring = tail, head do
  redis.call('UNLINK', KEYS[1] .. ring)
end
redis.call('UNLINK', KEYS[2], KEYS[4])
redis.call('HSET', KEYS[3], 'tail', head + 1, 'bytes', 0, 'transitions', 0)
return head - tail + 1
"""

# KEYS  1 names of those present   2 one of them
# ARGV  1 its name   2 its JSON   3 seconds until it expires
# Begins with UNLINK, which a full server does not refuse: presence matters most when a server is full.
ANNOUNCE = """
redis.call('UNLINK', KEYS[2])
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
"""

# KEYS  1 the holder's words   2 number of the newest lease
# ARGV  1 number of the caller's lease, 0 for none   2 number that it must exceed   3 words of a holder that is gone
#       4 the caller's own words   5 milliseconds until the lease runs out, 0 to give it back
# Takes a lease that nobody holds, renews one, or answers who holds it. Begins to write with UNLINK, as ANNOUNCE does.
LEASE = """
local newest = tonumber(redis.call('GET', KEYS[2]) or '0')
local held = redis.call('GET', KEYS[1]) or ''
local own = tonumber(ARGV[1])
local free = own == 0 and (held == '' or held == ARGV[3])
if not free and (own == 0 or own < newest) then
  return {0, newest, held, redis.call('PTTL', KEYS[1])}
end
if free then own = newest + 1 end
if own <= tonumber(ARGV[2]) then own = tonumber(ARGV[2]) + 1 end
redis.call('UNLINK', KEYS[1])
redis.call('SET', KEYS[2], own)
if ARGV[5] ~= '0' then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
end
return {own, own, '', 0}
"""

# KEYS  1 the holder's words   2 number of the newest lease   3… allowances
# ARGV  1 number of the caller's lease, 0 for none   2… transitions that each buffer may have
ALLOW = """
local newest = tonumber(redis.call('GET', KEYS[2]) or '0')
local own = tonumber(ARGV[1])
if own < newest then
  return {0, newest, redis.call('GET', KEYS[1]) or ''}
end
redis.call('UNLINK', unpack(KEYS, 3))
for i = 3, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i - 1])
end
if own > newest then
  redis.call('SET', KEYS[2], own)
end
return {1, own, ''}
"""

SCRIPT_LOADS = 3
"""Most times that a script is sent to a server that keeps forgetting it."""
COMMIT_SHA = sha1(COMMIT.encode(), usedforsecurity=False).hexdigest()


def install(client: Commands) -> None:
    """Makes the server know every script. An administrator does so at each start, since users may not."""
    for script in (COMMIT, SHRINK, CLEAR, ANNOUNCE, LEASE, ALLOW):
        load(client, script)


def load(client: Commands, script: str = COMMIT) -> None:
    """Makes the server know a script. Raises InputError where the user may not."""
    try:
        client.execute_command("SCRIPT LOAD", script)
    except redis.exceptions.NoPermissionError as error:
        raise InputError(
            "the replay's server does not know our scripts, and this user may not load them: its administrator does so "
            "at each start (`twinrl serve replay` by itself, `twinrl serve replay --install` for another server)"
        ) from error


def run_script(client: Commands, script: str, keys: Sequence[str], *arguments: str | int | bytes) -> Any:
    """Runs a script, which is sent only to a server that does not know it yet.

    A server may forget it again at any moment, between loading and running too, so that is tried a few times.
    """
    sha = sha1(script.encode(), usedforsecurity=False).hexdigest()
    for _ in range(SCRIPT_LOADS):
        try:
            return client.execute_command("EVALSHA", sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            load(client, script)
    return client.execute_command("EVALSHA", sha, len(keys), *keys, *arguments)


def shrink(client: Commands, keys: Keys, capacity_bytes: int) -> int:
    """Brings a ring down to a capacity that has become smaller; returns the number of segments dropped."""
    return int(run_script(client, SHRINK, (keys.slots, keys.counters), capacity_bytes))


def clear(client: Commands, keys: Keys) -> int:
    """Empties a buffer's ring; returns the number of segments that were in it."""
    names = (keys.slots, keys.index, keys.counters, keys.allowance)
    return int(run_script(client, CLEAR, names))
