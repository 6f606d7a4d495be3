"""This module has settings and data for stages that are interrupted, and compares them with an uninterrupted one."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from samples import SCHEMA, changed, make_segment

from learner.rl import BatchSettings, CriticSettings, LoopSettings, UpdateSettings
from learner.stage import EngineSettings, RlSettings, checkpoint
from policy.checkpoint import load
from protos.schema import Outcome
from services.replay import ReplaySettings, ReplayWriter, shard_of
from services.telemetry import read_metrics

TIMEOUT_S = 60.0
EPISODES = 30
UPDATES = 24
CHECKPOINT_EVERY = 6


def never() -> bool:
    return False


def rl_settings(replay: ReplaySettings, policy: Path, **changes) -> RlSettings:
    """Returns settings of 24 updates, due when all of `write_experience` has arrived."""
    update = changed(UpdateSettings(critic=CriticSettings(width=16)), **changes.pop("update", {}))
    batch = BatchSettings(
        online={"twin": 8},
        demo={"demo": 8},
        sampling=changes.pop("sampling", {}),
        capacity=changes.pop("capacity", {"demo": 200, "twin": 250}),
    )
    loop = LoopSettings(
        env_steps=10 * EPISODES,
        start_after=10 * EPISODES - 1,
        slack=10 * EPISODES,
        utd=UPDATES,
        warmup_updates=4,
        publish_every=5,
        checkpoint_every=CHECKPOINT_EVERY,
        log_every=1,
        data_timeout_s=TIMEOUT_S,
    )
    defaults = {"schema": SCHEMA, "engine": EngineSettings(kind="torch"), "weights": None}
    settings = {"replay": replay, "policy": policy, "batch": batch, "loop": loop, "update": update}
    return RlSettings(**(settings | defaults | changes))


def write(
    replay: ReplaySettings, buffer: str, actor: str, count: int, *, backbone_id: str = "", start: int = 0
) -> None:
    """Writes whole episodes of 10 steps in several cells, some of which succeed."""
    rng = np.random.default_rng([start, len(actor), sum(actor.encode())])
    with ReplayWriter(replay, SCHEMA, actor=actor, incarnation=f"{buffer}{start}", spool=None) as writer:
        for i in range(start, start + count):
            outcome = Outcome.SUCCESS if i % 3 else Outcome.TIMEOUT
            segment = make_segment(rng, f"{actor}/{i}", outcome=outcome, backbone_id=backbone_id, version=0)
            configuration = replace(segment.configuration, cell=i % 5)
            writer.add(replace(segment, configuration=configuration), [buffer])
        assert writer.flush(TIMEOUT_S) == 0


def write_demonstrations(replay: ReplaySettings, backbone_id: str = "") -> None:
    """Writes demonstrations; without a backbone's id they have no readouts, and the learner computes them."""
    for actor in actors(replay):
        write(replay, "demo", actor, 8 // replay.shards, backbone_id=backbone_id)


def write_experience(replay: ReplaySettings, backbone_id: str) -> None:
    for actor in actors(replay):
        write(replay, "twin", actor, EPISODES // replay.shards, backbone_id=backbone_id)


def actors(replay: ReplaySettings) -> list[str]:
    """Returns names of actors, one per shard."""
    names = [f"actor{i}" for i in range(20)]
    return [next(name for name in names if shard_of(name, replay.shards) == shard) for shard in range(replay.shards)]


class Kept:
    """Keeps every checkpoint that a stage of this process writes, as a killed process would leave it."""

    def __init__(self, monkeypatch, folder: Path) -> None:
        self.folder, self.count = folder, 0
        save = checkpoint.save

        def keep(path: Path, content: checkpoint.Checkpoint) -> None:
            save(path, content)
            shutil.copytree(path, self.folder / str(self.count) / "checkpoint")
            self.count += 1

        monkeypatch.setattr(checkpoint, "save", keep)

    def at(self, number: int, to: Path) -> Path:
        """A stage's folder in which this checkpoint was the latest."""
        shutil.copytree(self.folder / str(number), to)
        return to


def lines(out: Path) -> list[dict[str, float]]:
    """Returns a stage's metrics of every step of training, in order."""
    told = [line for line in read_metrics(out / "metrics.jsonl") if any(key.endswith(("td", "bc")) for key in line)]
    return [{key: value for key, value in line.items() if key not in ("t", "stage")} for line in told]


def assert_goes_on(whole: Path, resumed: Path, steps: int) -> None:
    """Asserts that the last `steps` lines and all tensors are the uninterrupted stage's to the last bit."""
    assert len(lines(resumed)) >= steps
    assert lines(resumed)[-steps:] == lines(whole)[-steps:]
    for folder in ("policy", "checkpoint"):
        left, right = load(whole / folder)[0], load(resumed / folder)[0]
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []


def until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(int(TIMEOUT_S / 0.02)):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {TIMEOUT_S:g} s: {what}")
