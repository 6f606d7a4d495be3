"""The servers that were named: does each answer, how soon, and does its clock agree."""

import time
from contextlib import closing
from typing import cast

import redis

from protos.errors import TwinRLError
from services.net.credentials import Credentials
from services.replay.connection import ReplaySettings, connect, masked
from twinrl.doctor.finding import Finding, wanting, well

CLOCK_S = 1.0
"""Clocks may differ by so much: ages of samples are told in seconds."""


def replay(url: str, credentials: Credentials, timeout_s: float) -> Finding:
    """Asks one replay server for the time. Its password is never shown."""
    settings = ReplaySettings(
        urls=(url,), credentials=credentials, connect_timeout_s=timeout_s, command_timeout_s=timeout_s
    )
    try:
        with closing(cast(redis.Redis, connect(settings))) as client:
            client.ping()
            asked = time.time()
            seconds, micros = client.time()
            answered = time.time()
    except (redis.RedisError, TwinRLError, OSError) as error:
        return wanting(f"{masked(url)}: {error}", "start it, or mend address, certificates or password")
    apart = seconds + micros / 1e6 - (asked + answered) / 2
    found = f"{masked(url)} answers in {1e3 * (answered - asked):.1f} ms, clock {apart:+.3f} s from here"
    return (
        well(found)
        if abs(apart) <= CLOCK_S
        else wanting(found, f"clocks may differ by {CLOCK_S:g} s; run chrony on both")
    )
