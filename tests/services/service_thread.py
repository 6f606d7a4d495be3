"""This module runs a gRPC service in a thread of the test, which can inspect it and make it misbehave."""

import asyncio
import threading

import grpc

from services.net import SERVER_OPTIONS


class ServiceThread:
    """Serves a method table on a free port of loopback."""

    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler
        self._listening, self._stop = threading.Event(), None
        self._loop = None
        self.address = ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self._handler,))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._listening.set()
        await self._stop.wait()
        await server.stop(grace=None)

    def __enter__(self) -> "ServiceThread":
        self._thread.start()
        assert self._listening.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
