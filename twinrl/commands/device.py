"""`twinrl device`: the SpaceMouse, gamepad or keyboard with which a person acts, found and shown live."""

from collections.abc import Sequence

from actors.human.devices.__main__ import Arguments
from actors.human.devices.__main__ import main as show
from protos.process import run_process


def main(arguments: Sequence[str]) -> int:
    return run_process(Arguments, show, prog="twinrl device", arguments=arguments)
