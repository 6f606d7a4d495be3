"""TwinRL: a digital twin of a workspace, twin actors, one robot arm, and a policy that learns from all of them.

    twinrl demo --seed 1 ──► twinrl/commands/demo.py, imported only now ──► main(["--seed", "1"])

A person's mistake ends with one line and exit code 2, Ctrl-C with exit code 130 and, where there is one, a summary of
what was saved.
"""

import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from protos.errors import InputError
from protos.process import exit_code_of

COMMANDS = {
    "demo": "run the whole method: scan, demonstrations, SFT, twin RL, guided RL on the stand-in arm, report",
    "run": "run the whole method with a lab's own arm, cameras and operator, as its lab file names them",
    "lab": "make a lab file: find what can be found, ask the rest",
    "sft": "fine-tune a policy on demonstrations: a dataset folder or a replay",
    "rl": "train a policy on what actors stream into a replay, and publish its weights",
    "import-octo": "turn an official Octo checkpoint into a policy folder",
    "inspect": "say what is in a dataset or a run: episodes, cameras, rate, actions, outcomes, what will be skipped",
    "export": "write a run, a replay or a dataset as LeRobotDataset v3 or RLDS",
    "reward": "train and check a classifier that proposes, by both cameras, when the task at the arm is solved",
    "expand": "make many twin demonstrations of a few recorded ones, over regions A and B",
    "fidelity": "measure a twin against another world: order of the starts, images, motions",
    "identify": "find a twin's latency, response and load from the arm's recorded episodes",
    "points": "write a page on which known points of a capture's photos are clicked",
    "scan": "turn photos or a video of a workspace into a scene folder with a report",
    "align": "find the base frame of a scene from the robot in its photos: coarse ICP, then its masks",
    "cut": "cut an object out of a scene: movable splats with a collision shape, the table closed behind it",
    "view": "show a scene, its robot, cameras, regions and objects in the browser",
    "doctor": "try what this machine needs for its part, and say what is missing and what to do",
    "device": "find the SpaceMouse, gamepad or keyboard of a person at the arm, and show its axes and buttons live",
    "probe": "try a policy in the twin from every cell of the grid, on many workers",
    "status": "say what the processes of a run or a cluster do, and who waits on whom",
    "serve": "serve the replay, the weights or the guide of a cluster",
    "certificates": "make the certificates and the token with which machines of a lab trust each other",
    "bench": "measure services beside others and through faults, the policy, the learner, and what it learns",
}

HELD_TOGETHER = dict.fromkeys(("points", "scan", "align", "cut", "view"), "scene") | {
    "identify": "fidelity",
    "device": "doctor",
    "run": "lab",
    "lab": "lab",
}
"""Commands that share a module of `twinrl/commands/`, and its name."""


def main() -> None:
    """Entry point of the `twinrl` script."""
    sys.exit(exit_code_of(lambda: _run(sys.argv[1:])))


def choose(arguments: Sequence[str], choices: Mapping[str, str], *, prog: str, about: str) -> str | None:
    """The word that begins `arguments`; None when help was asked for, and shown. Raises InputError for another word."""
    word = arguments[0] if arguments else "--help"
    if word in choices:
        return word
    if word not in ("-h", "--help"):
        near = difflib.get_close_matches(word, choices, n=1, cutoff=0.0)
        raise InputError(f"{prog} {word}: no such command; nearest is {near[0]!r} (of {', '.join(choices)})")
    width = max(map(len, choices))
    lines = [f"  {name:<{width}}  {what}" for name, what in choices.items()]
    head = f"usage: {prog} {{{','.join(choices)}}} …\n\n{about}\n"
    sys.stdout.write("\n".join([head, *lines, f"\n{prog} <command> --help shows the options of one."]) + "\n")
    return None


def _run(arguments: Sequence[str]) -> int:
    name = choose(arguments, COMMANDS, prog="twinrl", about=(__doc__ or "").splitlines()[0])
    if name is None:
        return 0
    if name != "serve":  # a service logs in its own way
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    module, function = (HELD_TOGETHER[name], name) if name in HELD_TOGETHER else (name.replace("-", "_"), "main")
    command = getattr(import_module(f"twinrl.commands.{module}"), function)
    return int(command(arguments[1:]))


if __name__ == "__main__":
    main()
