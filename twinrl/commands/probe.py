"""`twinrl probe`: how often a policy succeeds from every cell of the grid, in the twin, on many workers.

twinrl probe runs/demo --rollouts-per-cell 5 --workers 8
twinrl probe sft/policy --scene scene --task insert_hexagon_block
twinrl probe expert --scene scene
twinrl probe fetch_the_cube --scene scene      (a policy of another package)
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from actors.policies import policy_names
from actors.sim import ProbeSettings, TwinWorld
from protos.errors import InputError
from protos.process import stop_on_signal
from protos.schema import Outcome, Schema
from protos.status import StatusFile
from twinrl.run.progress import Progress
from twinrl.run.stored_replay import scene_of, twin_of

if TYPE_CHECKING:
    from actors.sim.evaluation import Findings
    from protos.space import ConfigurationSpace

EXPERT = "expert"
NEWEST_FIRST = ("real_rl", "twin_rl", "sft_ab", "sft_a")
"""Stages of a run that leave a policy."""
BLIND_PX = 16
"""The expert looks at no image."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Try a policy (or the task's expert) in the twin from every cell, and say how often it succeeds in each."""

    what: tyro.conf.Positional[str]
    """Folder of a policy, or of a run (its newest is tried); the word "expert"; the name of a package's policy."""
    scene: Path | None = None
    """Scene folder of the twin; a run's own by default."""
    task: str | None = None
    """A run's own, or pick_and_place, by default."""
    domain: str | None = None
    """Dynamics and looks of the twin, by name; a run's own, or "twin", by default."""
    latency_steps: Annotated[tuple[float, ...], tyro.conf.arg(metavar="STEPS …")] = ()
    """Control steps from an action to its effect, one drawn per episode; the domain's by default."""
    seed: int = 0
    """Decides the starts of every cell."""
    rollouts_per_cell: int = 5
    workers: int = 2
    """Processes that try cells; the results do not depend on their number."""
    cells: Annotated[tuple[int, ...], tyro.conf.arg(metavar="CELL …")] = ()
    """Cells to try; all when none is named."""
    cell_timeout_s: float = 600.0
    """A cell without results by then is tried again by a new process."""
    ray: str = "local"
    """"local", or "auto" or host:port of a cluster."""
    out: Path | None = None
    """File for one JSON line per episode; beside the policy by default."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Probe, prog="twinrl probe", args=arguments)
    settings = settings_of(command)
    from actors.sim.evaluation import probe
    from twin import tasks

    space = tasks.get(settings.world.task).space
    wanted = len(settings.cells) or space.cells
    stop, status = stop_on_signal(), StatusFile()
    with Progress(["probe"]) as progress, progress.stage("probe", total=wanted, unit="cells") as stage:

        def show(findings: "Findings") -> None:
            done, episodes = len(findings.results), findings.episodes()
            success = sum(one.outcome is Outcome.SUCCESS for one in episodes) / max(len(episodes), 1)
            stage.update(done, success=success, again=sum(findings.failures.values()))
            status.write(doing="probe", cells=done, episodes=len(episodes), success=success)

        findings = probe(settings, stop=stop.is_set, show=show)
    sys.stdout.write(table_of(findings, space, wanted) + f"\n{settings.out}\n")
    return 0 if len(findings.results) == wanted else 2


def settings_of(command: Probe) -> ProbeSettings:
    """Returns the job of the workers. Raises InputError when policy or scene is not to be found."""
    named = command.what if command.what in policy_names() and not Path(command.what).exists() else ""
    folder = None if command.what == EXPERT or named else _policy_in(Path(command.what))
    scene = command.scene or scene_of(Path(command.what))
    if not (scene / "scene.toml").is_file():
        raise InputError(f"{scene}: no scene folder; name one with --scene")
    task, domain = twin_of(Path(command.what), command.task, command.domain)
    world = TwinWorld(
        scene=scene.absolute(),
        task=task,
        domain=replace(domain, latency_steps=command.latency_steps or domain.latency_steps),
        seed=command.seed,
        schema=Schema() if named else _schema_of(folder),
    )
    tried = folder.name if folder else command.what
    out = command.out or (folder.parent if folder else Path()) / f"probe_{tried}.jsonl"
    if out.parent.is_dir() and not os.access(out.parent, os.W_OK):
        raise InputError(f"{out} cannot be written; name another file: --out FILE.jsonl")
    return ProbeSettings(
        world=world,
        policy=folder and folder.absolute(),
        named=named,
        out=out,
        rollouts_per_cell=command.rollouts_per_cell,
        workers=command.workers,
        cells=command.cells,
        cell_timeout_s=command.cell_timeout_s,
        ray_address=command.ray,
    )


def _policy_in(folder: Path) -> Path:
    """The folder itself when it is a policy's, else the newest policy of the run in it."""
    choices = [folder, folder / "policy", *(folder / stage / "policy" for stage in NEWEST_FIRST)]
    for choice in choices:
        if (choice / "manifest.json").is_file():
            return choice
    raise InputError(
        f"{folder}: neither a policy folder nor a run with a policy, nor the word {EXPERT!r}, nor a package's policy"
    )


def _schema_of(policy: Path | None) -> Schema:
    if policy is None:
        return Schema(side_px=BLIND_PX, wrist_px=BLIND_PX)
    from policy.checkpoint import policy_settings

    octo = policy_settings(policy).octo
    return replace(Schema(), side_px=octo.side_px, wrist_px=octo.wrist_px)


def table_of(findings: "Findings", space: "ConfigurationSpace", wanted: int) -> str:
    """Successes of every cell, laid out as the grid lies: rows along x, columns along y."""
    lines: list[str] = []
    per_region = space.rows * space.columns
    for number, region in enumerate(space.regions):
        lines += ["", f"region {region}"]
        for row in range(space.rows):
            first = number * per_region + row * space.columns
            lines.append(" ".join(f"{_cell(findings, first + column):>7}" for column in range(space.columns)))
        results = [one for cell, some in findings.results.items() if cell // per_region == number for one in some]
        successes = sum(one.outcome is Outcome.SUCCESS for one in results)
        lines.append(f"{successes} of {len(results)} succeeded")
    lines += [f"cell {cell} was given up: {reason}" for cell, reason in sorted(findings.given_up.items())]
    if len(findings.results) + len(findings.given_up) < wanted:
        lines.append(f"stopped with {len(findings.results)} of {wanted} cells done")
    return "\n".join(lines)


def _cell(findings: "Findings", cell: int) -> str:
    results = findings.results.get(cell)
    if results is None:
        return "-"
    return f"{sum(one.outcome is Outcome.SUCCESS for one in results)}/{len(results)}"
