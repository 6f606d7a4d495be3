"""`twinrl bench NAME` measures this machine and prints tables as markdown.

The benchmarks lie in `benchmarks/` of a checkout, beside the packages. A wheel does not hold them.
"""

import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from protos.errors import InputError
from twinrl.cli import choose

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = {
    "demo": "the demo by stage: CPU time of all processes and wall time, of one commit or of several in turns",
    "replay": "ingest and delivered batches, beside other replays on the same data",
    "weights": "a new version to many subscribers, and what publishing costs the learner",
    "limits": "adversarial actions on the arm's driver: speeds, accelerations and joint speeds of what it streams",
    "faults": "servers and actors killed under load: what is lost, what comes twice",
    "joins": "how soon a new actor is served, and how soon a dead one's place is free",
    "arm": "every stop of the arm, measured at the simulated controller",
    "starts": "the arm's program started beside busy loops",
    "step": "CPU time of one control step of the arm, by process",
    "operator": "the scripted operator in drawn labs: its success, and whom it takes over",
    "practice": "real RL in drawn labs inside one process: what settings of it are worth, in minutes",
    "reward": "the reward classifier beside the simulator's truth: agreement, false successes",
    "policy": "time and memory of forward passes, beside the arithmetic floor, and what shortens them",
    "learner": "time and memory of updates, inside RLlib and outside, beside a plain one and the floor",
    "identify": "the twin of a drawn lab identified, found beside true; what it is worth on arrival",
    "method": "the method over drawn labs, beside itself with parts left out and beside practice without a twin",
    "learning": "does it learn: SFT and twin RL over seeds, with and without parts of the RL stage",
    "twin": "twin steps by stage and beside other simulators; fleets of twin actors, some of them killed",
}
MODULES = {name: f"benchmarks.{name}.run" for name in BENCHMARKS} | {
    "joins": "benchmarks.weights.joins",
    "practice": "benchmarks.operator.practice",
    "starts": "benchmarks.arm.starts",
    "step": "benchmarks.arm.step",
}


def main(arguments: Sequence[str]) -> int:
    name = choose(
        arguments, BENCHMARKS, prog="twinrl bench", about="Measure services, policy and learning on this machine."
    )
    if name is None:
        return 0
    if not (CHECKOUT / "benchmarks").is_dir():
        raise InputError(
            f"benchmarks are not installed beside {CHECKOUT}: clone the repository and run `twinrl bench {name}` there"
        )
    module = import_module(MODULES[name])
    command = tyro.cli(
        _with_out(getattr(module, f"{name.capitalize()}Bench")), args=arguments[1:], prog=f"twinrl bench {name}"
    )
    tables = module.run(command.settings).rstrip() + "\n"
    sys.stdout.write(tables)
    if command.out is not None:
        command.out.parent.mkdir(parents=True, exist_ok=True)
        command.out.write_text(tables)
    return 0


def _with_out(kind: Any) -> Any:
    """The settings of a benchmark and, beside them, the file that receives its tables."""
    settings = Annotated[kind, tyro.conf.arg(name="")]
    out = Annotated[Path | None, tyro.conf.arg(help="File that receives the tables too.")]
    return make_dataclass(
        kind.__name__, [("settings", settings), ("out", out, None)], namespace={"__doc__": kind.__doc__}, kw_only=True
    )
