"""The bench's server: cameras, hands and eyes of the lab; see `actors.real.bench` for the protocol."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

from actors.real.bench import HEADER, lengths, pack
from actors.simulated_ur.controller import Controller
from protos.errors import CorruptData, InputError
from protos.schema import Configuration
from protos.settings import from_json

log = logging.getLogger(__name__)


class Bench:
    """Serves one controller's surroundings. `objects` are the names of the bodies on the table."""

    def __init__(self, controller: Controller, objects: Sequence[str]) -> None:
        self._controller, self._objects = controller, tuple(objects)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                text, blob = lengths(await reader.readexactly(HEADER.size))
                request = json.loads(await reader.readexactly(text))
                await reader.readexactly(blob)
                writer.write(self._reply(request))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            log.debug("bench client went away")
        except (CorruptData, json.JSONDecodeError) as error:
            log.warning("bench: %s: closing the connection", error)
        finally:
            writer.close()

    def _reply(self, request: dict[str, Any]) -> bytes:
        try:
            return self._answer(request)
        except InputError as error:
            return pack({"error": str(error)})

    def _answer(self, request: dict[str, Any]) -> bytes:
        controller = self._controller
        match request.get("op"):
            case "frames":
                controller.clock.catch_up()
                side, wrist = controller.world.render()
                shapes = {"side": side.shape, "wrist": wrist.shape, "t": controller.time_s}
                return pack(shapes, side.tobytes() + wrist.tobytes())
            case "place":
                controller.place(from_json(Configuration, request.get("configuration", {}), "configuration"))
            case "objects":
                return pack({"objects": {name: controller.world.object_pose(name) for name in self._objects}})
            case "success":
                return pack({"success": controller.world.success()})
            case "protective_stop":
                controller.protective_stop("someone pushed the arm")
            case other:
                raise InputError(f"op {other!r}: choose frames, place, objects, success or protective_stop")
        return pack({})
