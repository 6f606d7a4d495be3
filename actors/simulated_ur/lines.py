"""This module answers a client of a text port line by line."""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


async def answer_lines(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], str]
) -> None:
    """Writes `answer(line)` for every line of ASCII that a client sends, until it leaves."""
    try:
        while line := await reader.readline():
            writer.write(answer(line.decode("ascii", "replace").strip()).encode())
            await writer.drain()
    except ConnectionError:
        log.debug("client went away")
    finally:
        writer.close()
