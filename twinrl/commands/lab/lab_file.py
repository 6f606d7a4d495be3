"""This module reads a lab file: the settings of a run in TOML, and in [station] those of the lab's own arm.

    lab.toml ─┬─ [station]      ─► actors.real.Station            arm, gripper, limits, cameras, operator and device
              └─ all the others ─► twinrl.run.settings.RunSettings   task, photos, plans, services

Nothing is set here alone. Every mistake is one line with the key, its value and what may stand there. Paths are taken
from the folder of the file. Secrets are in files of their own, which `credentials` names.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.real import ConsoleLab, Station
from protos.errors import InputError
from protos.files import read_text
from protos.settings import anchored, from_json
from services.replay import masked
from twinrl.run.settings import RunSettings

TABLE = "station"


@dataclass(frozen=True, kw_only=True)
class LabFile:
    """A lab file as it was read; its paths are absolute."""

    run: RunSettings
    station: Station | None
    """The lab's arm; None where the file has no [station]: the run starts stand-ins, as `twinrl demo` does."""


def read_lab(path: Path) -> LabFile:
    """Reads a lab file. Raises InputError with the first mistake in it."""
    return parse_lab(read_text(path, what="lab file"), path)


def parse_lab(text: str, path: Path) -> LabFile:
    """Reads the text of a lab file at `path`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: no TOML: {error}") from error
    try:
        return _lab(data, path)
    except InputError as error:
        told = str(error)
        raise InputError(told if told.startswith(path.name) else f"{path.name}: {told}") from error


def _lab(data: dict[str, Any], path: Path) -> LabFile:
    given = data.pop(TABLE, None)
    run = from_json(RunSettings, {"name": path.stem, **data}, path.name)
    if any(masked(url) != url for url in run.replay):
        raise InputError("replay: a URL with a password in it; name the password's file in credentials.password")
    if given is None:
        return LabFile(run=anchored(run, path.parent), station=None)
    station = from_json(Station, given, f"{path.name}.{TABLE}")
    _check(station, given, data)
    return LabFile(run=anchored(run, path.parent), station=anchored(station, path.parent))


def _check(station: Station, given: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raises InputError for what has a default that is none of this lab's, and for an operator who cannot act."""
    if "host" not in given.get("arm", {}):
        raise InputError(f"{TABLE}.arm.host is missing: the address of the arm")
    if "lab" not in given:
        raise InputError(
            f"{TABLE}.lab is missing: name the cameras in [{TABLE}.lab.side] and [{TABLE}.lab.wrist]; for a simulated "
            'controller kind = "simulated"'
        )
    if "capture" not in data:
        raise InputError("capture is missing: the folder of photos, or the video, of this workspace")
    choices = ("person",) if isinstance(station.lab, ConsoleLab) else ("person", "scripted")
    if station.operator not in choices:
        raise InputError(
            f"{TABLE}.operator={station.operator!r}: choose {' or '.join(map(repr, choices))}: somebody demonstrates, "
            "and a script sees objects at a simulated controller alone"
        )
    for name in ("lab", "arms"):
        if name in data:
            raise InputError(f"{name}={data[name]!r}: only stand-ins have it, and this lab has a [{TABLE}]")
