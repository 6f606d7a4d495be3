"""`twinrl fidelity` compares the twin with another world, `twinrl identify` finds what the twin lacks.

twinrl fidelity runs/demo                                       a run's twin against its arm
twinrl fidelity --domains twin standin --scene runs/demo/scene  two domains, with a policy where one is given
twinrl identify runs/demo                                       latency, response, … found beside assumed
"""

import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from protos.errors import InputError
from protos.files import read_lines
from protos.problems import problem_of
from protos.schema import Schema
from protos.settings import to_json
from twin import tasks
from twin.identify import table as identified
from twin.randomize import domain_named
from twinrl.fidelity import measure as files
from twinrl.fidelity.compare import Fidelity
from twinrl.fidelity.measure import of_domains, of_success
from twinrl.fidelity.probes import World
from twinrl.fidelity.verdict import rows
from twinrl.identification import identify_run, keep, twin_of_run
from twinrl.report.inputs import EpisodeLine
from twinrl.run.stored_replay import is_run, replay_of, run_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasureFidelity:
    """Measure how faithful a twin is: a run's against its arm, or one domain against another."""

    run: tyro.conf.Positional[Path | None] = None
    """Folder of a run, as runs/demo; the result is kept there and shown in its report."""
    domains: tuple[str, str] | None = None
    """Two domains to compare in place of a run: two domains of the twin, as in --domains twin standin."""
    scene: Path | None = None
    """Scene folder, for --domains."""
    task: str = "pick_and_place"
    policy: Path | None = None
    """Policy folder whose success is compared between the domains."""
    rollouts: int = 5
    """Rollouts of the policy per grid cell and domain; the default is the paper's number."""
    schema: Schema = field(default_factory=Schema)
    seed: int = 0
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class IdentifyTwin:
    """Find parameters of a run's twin by replaying the arm's demonstrations in it."""

    run: tyro.conf.Positional[Path]
    """Folder of a run, as runs/demo; the result is kept there as identified.json."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(MeasureFidelity, prog="twinrl fidelity", args=arguments)
    if (command.run is None) == (command.domains is None):
        raise InputError("name a run, as in runs/demo, or two domains, as in --domains twin standin")
    found = _of_run(command.run) if command.run is not None else _of_domains(command)
    sys.stdout.write(json.dumps(files.plain(found), indent=1) + "\n" if command.json else table(found))
    return 0


def identify(arguments: Sequence[str]) -> int:
    command = tyro.cli(IdentifyTwin, prog="twinrl identify", args=arguments)
    if not is_run(command.run):
        raise InputError(f"{command.run}: no run was made there")
    with replay_of(command.run) as replay:
        found = identify_run(command.run, replay, run_settings(command.run))
    try:
        keep(command.run, found)
    except OSError as error:  # an archive is identified like any run
        log.warning("not kept: %s", problem_of(error))
    head = f"{found.episodes} demonstrations of the arm against the twin of {command.run}\n"
    told = json.dumps(to_json(found), indent=1) if command.json else head + identified(found.quantities)
    sys.stdout.write(told + "\n")
    return 0


def table(fidelity: Fidelity) -> str:
    """One line per measurement."""
    told = rows(fidelity)
    width, values = max(len(row.what) for row in told), max(len(row.value) for row in told)
    lines = [f"{fidelity.first} against {fidelity.second}" + (f", policy {fidelity.policy}" if fidelity.policy else "")]
    lines += [f"  {row.what:<{width}}  {row.value:<{values}}  {row.verdict:<4}  {row.note}" for row in told]
    return "\n".join(lines) + "\n"


def _of_run(folder: Path) -> Fidelity:
    if not is_run(folder):
        raise InputError(f"{folder}: no run was made there")
    run = run_settings(folder)
    with replay_of(folder) as replay:
        found = files.measure_run(folder, replay, run.schema, twin_of_run(folder, run), seed=run.seed)
    try:
        files.write(folder, found)
    except OSError as error:  # an archive is measured like any run
        log.warning("not kept: %s", problem_of(error))
    return found


def _of_domains(command: MeasureFidelity) -> Fidelity:
    if command.scene is None:
        raise InputError("--scene: name the scene folder; `twinrl scan` makes one")
    from twin.scene import Scene

    assert command.domains is not None
    scene, task = Scene.load(command.scene), tasks.get(command.task)
    first, second = (
        World(scene=scene, task=task, domain=domain_named(name), schema=command.schema, seed=command.seed)
        for name in command.domains
    )
    images, response = of_domains(first, second)
    tried = [_tried(command, name) for name in command.domains] if command.policy is not None else [[], []]
    return Fidelity(
        first=command.domains[0],
        second=command.domains[1],
        policy="" if command.policy is None else str(command.policy),
        success=of_success(*tried),
        images=images,
        response=response,
        latency_steps=first.domain.latency_steps,
    )


def _tried(command: MeasureFidelity, domain: str) -> list[EpisodeLine]:
    """Episodes of the policy in one domain, the same number from every cell."""
    from actors.sim import EvaluationSettings, TwinWorld
    from actors.sim.evaluation import evaluate

    assert command.policy is not None and command.scene is not None
    space = tasks.get(command.task).space
    with tempfile.TemporaryDirectory(prefix="twinrl-") as folder:
        out = Path(folder) / "episodes.jsonl"
        world = TwinWorld(
            scene=command.scene,
            task=command.task,
            domain=domain_named(domain),
            schema=command.schema,
            seed=command.seed,
        )
        rollouts = command.rollouts * space.rows * space.columns
        evaluate(EvaluationSettings(world=world, policy=command.policy, out=out, rollouts=rollouts))
        return [EpisodeLine.read(line) for line in read_lines(out)]
