"""`fidelity.json` in a run folder: what the report shows, and how it is measured from a run's own files.

eval/twin_rl_twin.jsonl, eval/before_standin.jsonl ─► success by cell of one policy in both worlds
replay, episodes of the arm ────────────────────────► pictures and motions
"""

import json
import math
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from learner.datasets.export import replay_episodes
from protos.episode import Episode
from protos.errors import InputError
from protos.files import write_durably
from protos.schema import Buffer, Schema, Source
from services.replay import ReplaySettings
from twin import tasks
from twin.scene import Scene
from twinrl.fidelity.measure import Fidelity, motions_of_recorded, of_success, pictures_of_recorded
from twinrl.fidelity.probes import World
from twinrl.fidelity.verdict import rows
from twinrl.report.inputs import EVALUATIONS, read_run_files

NAME = "fidelity.json"
PAIRS = (("twin_rl_twin", "before_standin"),)
"""Evaluations of one policy in the twin and in the other world, the first that is there counts."""
TWIN, OTHER = "twin", "arm"
EPISODES = 40
"""Of the arm and a buffer, at most; the first ones."""


def measure_run(
    folder: Path, replay: ReplaySettings, schema: Schema, *, seed: int, latency_steps: tuple[int, ...]
) -> Fidelity:
    """From the files and the replay of a run. Raises InputError when the run has neither evaluations nor episodes."""
    run = read_run_files(folder)
    pair = next((pair for pair in PAIRS if all(run.evaluations[name] for name in pair)), None)
    success = None if pair is None else of_success(*(run.evaluations[name] for name in pair))
    shown, acted = (_of_arm(replay, schema, buffer) for buffer in ("demo", "real"))
    if success is None and not shown:
        raise InputError(f"{folder}: no policy was tried in both worlds, and no episode of the arm was kept")
    images, response = None, None
    if shown:
        scene, task = Scene.load(folder / "scene"), tasks.get(shown[0].task)
        twin = World(scene=scene, task=task, domain="twin", schema=schema, seed=seed, latency_steps=latency_steps)
        images = pictures_of_recorded(twin, shown)
        response = motions_of_recorded(twin, acted)
    policy = "" if pair is None else EVALUATIONS[pair[0]][0]
    return Fidelity(
        first=TWIN,
        second=OTHER,
        policy=policy,
        success=success,
        images=images,
        response=response,
        latency_steps=latency_steps,
    )


def write(folder: Path, fidelity: Fidelity) -> None:
    """Puts it into the run folder."""
    write_durably(folder / NAME, [json.dumps(plain(fidelity), indent=1).encode()])


def plain(fidelity: Fidelity) -> dict[str, Any]:
    """As JSON values, with the rows for people; what is infinite (pictures that are the same) becomes null."""
    return _finite(asdict(fidelity) | {"rows": [asdict(row) for row in rows(fidelity)]})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_arm(replay: ReplaySettings, schema: Schema, buffer: Buffer) -> list[Episode]:
    """The arm's first episodes in a buffer: in "demo" those of the operator, in "real" those of policies."""
    with closing(replay_episodes(replay, schema, (buffer,))) as episodes:
        of_arm = (each for each in episodes if each.source is Source.REAL and each.configuration.poses)
        return list(islice(of_arm, EPISODES))
