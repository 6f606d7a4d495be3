"""`python -m actors.simulated_ur --settings standin.json` runs the stand-in for an arm until SIGTERM or Ctrl-C."""

import asyncio
import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from actors.simulated_ur.settings import StandinSettings
from protos.process import run_process
from protos.settings import load_settings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a simulated UR5e with MuJoCo physics behind the ports of a real controller."""

    settings: Path
    """JSON file of StandinSettings."""


def main(arguments: Arguments) -> None:
    asyncio.run(_run(load_settings(StandinSettings, arguments.settings)))


async def _run(settings: StandinSettings) -> None:
    from actors.simulated_ur.controller import Controller
    from actors.simulated_ur.ports import serve
    from actors.simulated_ur.world import host_world

    hosted = host_world(settings)
    domain = hosted.lab.domain
    controller = Controller(
        hosted.world,
        fast=settings.fast,
        robot=hosted.robot,
        pendant=settings.pendant,
        latency_steps=domain.latency_steps,
        gain=domain.gain,
        drive=hosted.lab.drive,
        seed=settings.seed,
    )
    listening = asyncio.ensure_future(
        serve(controller, host=settings.host, lab_port=settings.lab_port, objects=hosted.objects)
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, listening.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await listening


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
