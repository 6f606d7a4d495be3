"""This module prints our numbers beside the original's and exits with 1 when any is too far off."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from policy.octo.parity.run import compare_file
from protos.errors import TwinRLError


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Compare this Octo with reference numbers of the original, in every case that a file holds."""

    file: tyro.conf.Positional[Path]
    """An npz file of parameters, inputs and intermediates; all sizes are read from it."""
    device: str = "cpu"
    """The device that our side runs on."""


def main(arguments: Sequence[str] | None = None) -> int:
    command = tyro.cli(Parity, prog="python -m policy.octo.parity", args=arguments)
    try:
        table, unused = compare_file(command.file, torch.device(command.device))
    except TwinRLError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(table.text() + "\n")
    if unused:
        sys.stdout.write(f"{len(unused)} arrays in the file were not compared, first {unused[0]!r}\n")
    verdict = "all within their limits" if table.ok else "NOT within their limits"
    sys.stdout.write(f"{table.arrays} arrays compared: {verdict}\n")
    return 0 if table.ok else 1


if __name__ == "__main__":
    sys.exit(main())
