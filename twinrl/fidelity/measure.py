"""This module measures the fidelity of a twin: the order of its starts, its appearance and its motions.

eval/twin_rl_twin.jsonl, eval/before_standin.jsonl ─► success by cell of one policy in both worlds
replay, episodes of the arm ────────────────────────► images and motions
two domains of the twin ────────────────────────────► images and motions
                                                      └─► Fidelity ─► fidelity.json in the run folder
"""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from protos.episode import Episode
from protos.errors import InputError
from protos.files import write_durably
from protos.schema import Buffer, Observation, Schema, Source
from services.replay import ReplaySettings, read_episodes
from twin import tasks
from twin.randomize import Domain
from twin.scene import Scene
from twinrl.fidelity.compare import (
    Counts,
    Fidelity,
    ImageDistance,
    RankAgreement,
    StepResponse,
    image_distance,
    rank_agreement,
    step_response,
)
from twinrl.fidelity.probes import World, pulses, recorded_motions, recorded_situations, situations
from twinrl.fidelity.verdict import rows
from twinrl.report.inputs import EVALUATIONS, EpisodeLine, read_run_files

CAMERAS = ("side", "wrist")


def counts_by_cell(episodes: Iterable[EpisodeLine]) -> Counts:
    """Successes and rollouts of each cell of the grid; episodes outside the grid are left out."""
    counts: dict[int, tuple[int, int]] = {}
    for episode in episodes:
        if episode.cell >= 0:
            successes, rollouts = counts.get(episode.cell, (0, 0))
            counts[episode.cell] = (successes + episode.success, rollouts + 1)
    return counts


def of_success(first: Iterable[EpisodeLine], second: Iterable[EpisodeLine]) -> RankAgreement | None:
    """Compares one policy's evaluations in both worlds; None when one is missing."""
    a, b = counts_by_cell(first), counts_by_cell(second)
    return rank_agreement(a, b) if a and b else None


def of_domains(first: World, second: World) -> tuple[dict[str, ImageDistance], StepResponse]:
    """Compares appearance and motions of two domains of the twin."""
    starts = situations(first.task, first.seed)
    images = _images(first.images(starts), second.images(starts))
    starts, actions = pulses(first.task)
    return images, step_response(first.paths(starts, actions), second.paths(starts, actions))


def images_of_recorded(twin: World, episodes: Sequence[Episode]) -> dict[str, ImageDistance]:
    """Compares the appearance of the twin with recorded episodes, of which there is at least one."""
    starts, seen = recorded_situations(episodes)
    return _images(twin.images(starts), seen)


def motions_of_recorded(twin: World, episodes: Sequence[Episode]) -> StepResponse | None:
    """Compares the motions of the twin under recorded actions with the recorded ones; None when every one of them
    grasps at once.

    The actions must be all that moved the tool: not those of demonstrations that were disturbed on purpose.
    """
    starts, actions, measured = recorded_motions(episodes)
    return step_response(twin.paths(starts, actions), measured) if actions else None


def _images(first: Observation, second: Observation) -> dict[str, ImageDistance]:
    return {camera: image_distance(getattr(first, camera), getattr(second, camera)) for camera in CAMERAS}


NAME = "fidelity.json"
PAIRS = (("twin_rl_twin", "before_standin"),)
"""Evaluations of one policy in the twin and in the other world, the first that is there counts."""
TWIN, OTHER = "twin", "arm"
EPISODES = 40
"""Largest number of episodes of the arm that are read per buffer, oldest first."""


def measure_run(
    folder: Path, replay: ReplaySettings, schema: Schema, twin: tuple[Path, Domain], *, seed: int
) -> Fidelity:
    """Measures the twin of a run, which has a scene folder and a domain, from its files and its replay.

    Raises InputError when the run has neither evaluations nor episodes.
    """
    run = read_run_files(folder)
    pair = next((pair for pair in PAIRS if all(run.evaluations[name] for name in pair)), None)
    success = None if pair is None else of_success(*(run.evaluations[name] for name in pair))
    shown, acted = (episodes_of_arm(replay, schema, buffer) for buffer in ("demo", "real"))
    if success is None and not shown:
        raise InputError(f"{folder}: no policy was tried in both worlds, and no episode of the arm was kept")
    images, response = None, None
    if shown:
        scene, task = Scene.load(twin[0]), tasks.get(shown[0].task)
        world = World(scene=scene, task=task, domain=twin[1], schema=schema, seed=seed)
        images = images_of_recorded(world, shown)
        response = motions_of_recorded(world, acted)
    policy = "" if pair is None else EVALUATIONS[pair[0]][0]
    return Fidelity(
        first=TWIN,
        second=OTHER,
        policy=policy,
        success=success,
        images=images,
        response=response,
        latency_steps=twin[1].latency_steps,
    )


def write(folder: Path, fidelity: Fidelity) -> None:
    """Writes `fidelity.json` into the run folder."""
    write_durably(folder / NAME, [json.dumps(plain(fidelity), indent=1).encode()])


def plain(fidelity: Fidelity) -> dict[str, Any]:
    """Returns JSON values, with the rows for people; infinite values (equal images) become null."""
    return _finite(asdict(fidelity) | {"rows": [asdict(row) for row in rows(fidelity)]})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def episodes_of_arm(replay: ReplaySettings, schema: Schema, buffer: Buffer) -> list[Episode]:
    """The arm's first episodes in a buffer: in "demo" those of the operator, in "real" those of policies."""
    with closing(read_episodes(replay, schema, (buffer,))) as episodes:
        of_arm = (each for each in episodes if each.source is Source.REAL and each.configuration.poses)
        return list(islice(of_arm, EPISODES))
