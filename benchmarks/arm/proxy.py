"""`python -m benchmarks.arm.proxy LISTEN FORWARD PORT…` is a stretch of network between the arm's computer and the arm.

Stopped (SIGSTOP) it swallows everything and answers nothing; killed, every connection is reset.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

Delay = Callable[[int], Awaitable[None]]
RESET = struct.pack("ii", 1, 0)
"""A closed socket resets its connection."""


async def serve(listen: str, behind: str, ports: list[int], parent: int) -> None:
    """Forwards connections until the parent process is gone."""
    await forward(listen, behind, ports)
    while os.getppid() == parent:
        await asyncio.sleep(0.2)


async def forward(listen: str, behind: str, ports: Sequence[int], delay: Delay | None = None) -> None:
    """Listens on ports; forwards connections for as long as the event loop runs.

    `delay` is awaited for a port before anything goes on from or to it.
    """

    async def connect(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(behind, port)
        except OSError:
            writer.close()
            return
        for one in (writer, inner_writer):
            one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        wait = None if delay is None else partial(delay, port)
        await asyncio.gather(_copy(reader, inner_writer, wait), _copy(inner_reader, writer, wait))

    for port in ports:
        await asyncio.start_server(partial(connect, port), listen, port)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: Callable[[], Awaitable[None]] | None
) -> None:
    try:
        while data := await reader.read(1 << 16):
            if wait is not None:
                await wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], [int(port) for port in sys.argv[3:]], os.getppid()))
