"""What a stage that goes on publishes first, and what an actor makes of weights that are not what they are called."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from resume_samples import Kept, never, rl_settings, write_demonstrations, write_experience
from samples import TEXT, make_policy

from learner.stage import run_rl
from learner.stage.publication import PARTS
from policy.acting import BatchActor
from policy.checkpoint import load, save_policy
from policy.identity import wire_id
from protos.errors import CorruptData
from services.replay import EmbeddedServer, ReplaySettings


@dataclass(frozen=True)
class Publication:
    """What the weights service would hand out."""

    version: int
    parts: dict
    settings: dict


class Press:
    """Stands in for the weights service: keeps what is published, as float32."""

    published: list[Publication]

    def __init__(self, address, *, wire_dtype, exact, credentials) -> None:
        assert wire_dtype == "f32"

    def publish(self, parts, *, settings, unchanged, schema_hash) -> int:
        held = {name: self.published[-1].parts[name] for name in unchanged}
        new = {name: {key: np.array(array) for key, array in arrays.items()} for name, arrays in parts.items()}
        self.published.append(Publication(len(self.published) + 1, held | new, dict(settings)))
        return len(self.published)

    def wait(self, timeout_s) -> None:
        """Everything has arrived."""

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture
def replay(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:
        yield ReplaySettings(urls=(server.url,))


def test_a_stage_that_goes_on_publishes_the_checkpoints_policy_first(replay, tmp_path, monkeypatch):
    monkeypatch.setattr("learner.stage.publication.WeightPublisher", Press)
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    write_demonstrations(replay, policy.backbone_id)
    settings = rl_settings(replay, tmp_path / "start", weights="127.0.0.1:1", wire_dtype="f32")
    Press.published, kept, arrived = [], Kept(monkeypatch, tmp_path / "kept"), []

    def watch(line) -> None:
        if not arrived:
            arrived.append(line)
            write_experience(replay, policy.backbone_id)

    assert run_rl(settings, tmp_path / "whole", resume=False, stop=never, watch=watch)
    out = kept.at(2, tmp_path / "out")
    tensors, manifest = load(out / "checkpoint")
    Press.published = []
    assert run_rl(settings, out, resume=True, stop=never)
    first, last = Press.published[0], Press.published[-1]
    assert set(first.parts) == set(PARTS)
    assert first.settings["weights_id"] == manifest["weights"]["weights_id"] == wire_id(first.parts)
    assert first.settings["weights_id"] != last.settings["weights_id"]
    for name, array in first.parts["head"].items():
        np.testing.assert_array_equal(array, tensors[f"policy.{name}"].numpy())

    actor = BatchActor.from_weights(first, TEXT)
    actor.load(last)
    misnamed = replace(first, settings=first.settings | {"weights_id": last.settings["weights_id"]})
    with pytest.raises(CorruptData, match=last.settings["weights_id"]):
        actor.load(misnamed)
    assert actor.version == last.version
    with pytest.raises(CorruptData, match="promise"):
        BatchActor.from_weights(misnamed, TEXT)
