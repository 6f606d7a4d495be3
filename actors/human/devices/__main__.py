"""`python -m actors.human.devices [spacemouse|gamepad|keyboard]` lists devices, or shows one live until all was seen.

Exit codes: 0 all axes and buttons were seen, or the list was shown; 1 some were not; 2 the device cannot be opened or
was lost; 130 ended by Ctrl-C.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from actors.human.devices import Kind, Nodes, open_device
from actors.human.devices.checking import advice, found_lines, watch
from protos.process import run_process


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the devices in reach, or show one live: move every axis both ways, hold the deadman, press every button."""

    device: Annotated[Kind | None, tyro.conf.Positional] = None
    """The device to show; without one the list."""
    node: Path | None = None
    """Its node, as in /dev/input/event7; by default the first of its kind."""
    seconds: float = 60.0
    """Longest time to watch."""


def main(arguments: Arguments) -> int:
    if arguments.device is None:
        sys.stdout.writelines(f"{line}\n" for line in found_lines(Nodes()))
        return 0
    device = open_device(arguments.device, arguments.node)
    try:
        sys.stdout.write(f"{device.name}\n{device.help}\nMove every axis both ways, press everything; Ctrl-C ends.\n")
        missing = watch(device, arguments.device, _show, arguments.seconds)
    finally:
        device.close()
        sys.stdout.write("\n")
    if missing:
        sys.stdout.write(f"not seen: {', '.join(missing)}. {advice(arguments.device, missing)}\n")
        return 1
    sys.stdout.write("every axis and every button was seen\n")
    return 0


def _show(line: str) -> None:
    sys.stdout.write(f"\r{line}\x1b[K")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_process(Arguments, main))
