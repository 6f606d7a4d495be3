"""Opens the ports of the simulated controller and keeps its time."""

import asyncio
import logging
from collections.abc import Sequence

from actors.simulated_ur import dashboard, robotiq, rtde, script
from actors.simulated_ur.bench import Bench
from actors.simulated_ur.controller import Controller
from protos.errors import InputError

log = logging.getLogger(__name__)

TICK_S = 0.01
"""Period of the state stream and of real-time ticks while nothing is commanded; 100 Hz keeps an idle robot cheap."""


async def serve(controller: Controller, *, host: str, bench_port: int, objects: Sequence[str]) -> None:
    """Listens until cancelled. Raises InputError if a port is taken or the address cannot be bound."""
    streams = rtde.RtdeServer(controller)
    pendant, gripper = dashboard.Dashboard(controller), robotiq.Gripper(controller)
    bench = Bench(controller, objects)
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        servers.append(await loop.create_server(streams.connect, host, rtde.PORT))
        for port in script.PORTS:
            upload = await loop.create_server(lambda: script.ScriptPort(controller.start_program), host, port)
            servers.append(upload)
        for port, handler in ((dashboard.PORT, pendant), (robotiq.PORT, gripper), (bench_port, bench)):
            servers.append(await asyncio.start_server(handler.serve, host, port))
    except OSError as error:
        raise InputError(f"host {host}: cannot listen there ({error}); choose another 127.0.0.N") from error
    log.info("simulated UR5e listens on %s (RTDE %d, bench %d)", host, rtde.PORT, bench_port)
    try:
        await _keep_time(controller, streams)
    finally:
        for server in servers:
            server.close()


async def _keep_time(controller: Controller, streams: rtde.RtdeServer) -> None:
    while True:
        controller.tick()
        streams.publish()
        await asyncio.sleep(TICK_S)
