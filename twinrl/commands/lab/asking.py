"""This module is `twinrl lab init`: it finds what can be found, asks the rest, and writes a lab file with comments.

    flags ─┐
    found: controller's model, cameras, devices ─┼─► answers ─► text ─► read as any lab file ─► written
    asked at the terminal ─┘

Without a terminal every answer that cannot be found has to be a flag.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from actors.human.devices import KINDS, Kind, Nodes
from actors.real.dashboard import read_dashboard
from actors.real.kinematics import ModelName
from protos.errors import InputError, Unreachable
from twin import tasks
from twinrl.commands.lab.lab_file import parse_lab

LOOK_S = 2.0
"""Deadline of a controller to tell its model."""
MODELS: tuple[ModelName, ...] = get_args(ModelName)
CAMERAS = Path("/dev/v4l/by-id")
"""Cameras under names that stay when they are plugged in anew."""
TEXT = """\
# A lab: its arm, cameras, operator, task and photos. `twinrl run` does the whole method with it (docs/lab_file.md).
# Every key has a default; a wrong one is refused with the choices. Paths are relative to this file.
# Secrets are never in here: `credentials` names their files.

task = {task}
# 25 to 60 photos, or a slow video, and beside them a capture.toml that gives the scale (docs/twin.md)
capture = {photos}
# replay = ["rediss://HOST:6379"]   # without it the run starts a replay of its own
# [credentials]
# folder = "certs/admin"

[station]
operator = "person"             # demonstrates, takes over, judges

[station.arm]
host = {host}
model = {model}
stream_hz = {rate}              # servo targets per second; 125 to 500 suit a real arm
# [station.arm.pendant]         # what hangs at the flange beyond a Robotiq 2F-85 alone (docs/safety.md)
# payload_kg = 0.925
# [station.limits]              # on by default and bounded (docs/safety.md)
# speed_m_s = 0.3

{cameras}
[station.person]
device = {device}
facing_deg = 0.0                # where the person looks: 0 along +x of the base frame, 90 along +y
scale = 0.5                     # share of the task's way per control step that a full deflection asks for

[demonstrations]
real_a = 30                     # on the arm, in region A, by the person
twin_a = 90                     # by the twin's expert
twin_b = 90

[real_rl]
env_steps = 4000                # control steps of practice on the arm, ten per second
# regions = ["B"]               # all of the task by default

[evaluation]
rollouts = 40                   # per region, before and after practice; on the arm a person places and judges each
"""
CONSOLE = """\
[station.lab]
references = "cameras"          # what each camera shows; a start without --arm makes it
[station.lab.side]
device = {side}
[station.lab.wrist]
device = {wrist}
"""
SIMULATED = """\
[station.lab]
kind = "simulated"              # the simulated controller shows images, places objects and judges
"""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Write a lab file. What is not given is found or asked."""

    out: tyro.conf.Positional[Path] = Path("lab.toml")
    """The file to write; it must not exist yet."""
    host: str | None = None
    """Address of the arm's controller."""
    model: ModelName | None = None
    """Model of the arm; by default the controller tells it."""
    task: str | None = None
    """Task to learn."""
    photos: Path | None = None
    """Folder of photos, or a video, of the workspace."""
    device: Kind | None = None
    """Device with which a person demonstrates and takes over."""
    side: str | None = None
    """Camera that looks at the workspace: number, path or URL."""
    wrist: str | None = None
    """Camera at the wrist."""
    simulated: bool = False
    """The address is that of a simulated controller, whose lab has the cameras and places objects by itself."""


def make_lab(given: Init) -> None:
    """Writes the lab file and says what comes next. Raises InputError where an answer is missing or wrong."""
    if given.out.exists():
        raise InputError(f"{given.out} is there already; name a new file")
    text = lab_text(given)
    parse_lab(text, given.out)
    with given.out.open("x") as file:
        file.write(text)
    _say(
        f"wrote {given.out}\n"
        f"  twinrl run {given.out}                   scans, shows the arm and its cameras, moves nothing\n"
        f"  twinrl run {given.out} --resume --arm    goes on with the arm; every motion waits for your go"
    )


def lab_text(given: Init) -> str:
    """Returns the text of a lab file, after asking what was not given."""
    host = given.host or _ask("host", "Address of the arm's controller")
    model = given.model or _model(host)
    task = given.task or _ask("task", "Task", "pick_and_place", choices=tasks.names())
    photos = given.photos or Path(_ask("photos", "Folder of photos, or a video, of the workspace", "photos"))
    found = [one.kind for one in Nodes().found()]
    device = given.device or _ask("device", "Device of the person", found[0] if found else "keyboard", choices=KINDS)
    cameras = SIMULATED if given.simulated else _cameras(given)
    rate = 10.0 if given.simulated else 125.0
    return TEXT.format(
        task=json.dumps(task),
        photos=json.dumps(str(_from(photos, given.out.absolute().parent))),
        host=json.dumps(host),
        model=json.dumps(model),
        rate=rate,
        cameras=cameras,
        device=json.dumps(device),
    )


def _model(host: str) -> str:
    """Returns the arm's model as its controller tells it, else as a person does."""
    try:
        told = (read_dashboard(host, LOOK_S).model or "").lower()
    except Unreachable as error:
        _say(f"note: {error}")
        told = ""
    return next((model for model in MODELS if told.removesuffix("e") == model.removesuffix("e")), "") or _ask(
        "model", "Model of the arm", MODELS[0], choices=MODELS
    )


def _cameras(given: Init) -> str:
    here = sorted(CAMERAS.glob("*-index0")) or sorted(Path("/dev").glob("video*"))
    _say("".join(f"camera {one}\n" for one in here) or "no camera is plugged in here")
    first, second = (*map(str, here[:2]), "0", "2")[:2]
    side = given.side or _ask("side", "Camera that looks at the workspace", first)
    wrist = given.wrist or _ask("wrist", "Camera at the wrist", second)
    return CONSOLE.format(side=json.dumps(side), wrist=json.dumps(wrist))


def _from(path: Path, folder: Path) -> Path:
    """Returns a path as a file in `folder` names it."""
    path = path.expanduser().absolute()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _ask(flag: str, question: str, default: str = "", *, choices: Sequence[str] = ()) -> str:
    """Asks at the terminal until the answer is one of the choices. Raises InputError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise InputError(f"--{flag}: missing, and there is no terminal to ask at ({question.lower()})")
    among = f" ({', '.join(choices)})" if choices else ""
    while True:
        sys.stdout.write(f"{question}{among}{f' [{default}]' if default else ''}: ")
        sys.stdout.flush()
        if not (line := sys.stdin.readline()):
            raise InputError(f"--{flag}: the terminal is closed")
        answer = line.strip() or default
        if answer and (not choices or answer in choices):
            return answer


def _say(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
