"""This test resumes a stage: it publishes its checkpoint's policy first, under its name."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from resume_samples import TIMEOUT_S, Kept, never, rl_settings, write_demonstrations, write_experience
from samples import TEXT, make_policy

from learner.stage import run_rl
from policy.acting import BatchActor
from policy.checkpoint import load, save_policy
from policy.model import PARTS
from protos.errors import CorruptData
from protos.tensors import part_sha256
from services.replay import EmbeddedServer, ReplaySettings
from services.weights import WeightPublisher, WeightSubscriber


@pytest.fixture
def replay(tmp_path):
    with EmbeddedServer(tmp_path / "server") as server:
        yield ReplaySettings(urls=(server.url,))


@pytest.fixture
def arrived(weights, monkeypatch):
    """Keeps every version that is published, as it arrives at a subscriber; the stage waits for it."""
    versions, publish = [], WeightPublisher.publish
    with closing(WeightSubscriber(weights, name="test")) as subscriber:

        def wait(self, *args, **kwargs):
            version = publish(self, *args, **kwargs)
            versions.append(subscriber.wait(version, TIMEOUT_S))
            return version

        monkeypatch.setattr(WeightPublisher, "publish", wait)
        yield versions


def test_a_stage_that_goes_on_publishes_the_checkpoints_policy_first(replay, weights, arrived, tmp_path, monkeypatch):
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    write_demonstrations(replay, policy.sha256("backbone"))
    settings = rl_settings(replay, tmp_path / "start", weights=weights, wire_dtype="f32")
    kept, lines = Kept(monkeypatch, tmp_path / "kept"), []

    def watch(line) -> None:
        if not lines:
            lines.append(line)
            write_experience(replay, policy.sha256("backbone"))

    assert run_rl(settings, tmp_path / "whole", resume=False, stop=never, watch=watch)
    before = arrived[-1].version
    out = kept.at(2, tmp_path / "out")
    tensors, manifest = load(out / "checkpoint")
    arrived.clear()
    assert run_rl(settings, out, resume=True, stop=never)
    first, last = arrived[0], arrived[-1]
    assert first.version == before + 1
    assert set(first.parts) == set(PARTS)
    assert first.sha256 == manifest["weights"]["parts"]
    assert first.sha256 == {name: part_sha256(part) for name, part in first.parts.items()}
    assert first.sha256["backbone"] == last.sha256["backbone"] == first.settings["backbone_id"]
    assert first.sha256["head"] != last.sha256["head"]
    for name, array in first.parts["head"].items():
        np.testing.assert_array_equal(array, tensors[f"policy.{name}"].numpy())

    actor = BatchActor.from_weights(first, TEXT)
    actor.load(last)
    stranger = make_policy(4).parts()["backbone"]
    other = replace(
        first,
        parts=first.parts | {"backbone": stranger},
        sha256=first.sha256 | {"backbone": part_sha256(stranger)},
    )
    with pytest.raises(CorruptData, match=first.sha256["backbone"][:16]):
        actor.load(other)
    assert actor.version == last.version
    with pytest.raises(CorruptData, match="promise"):
        BatchActor.from_weights(other, TEXT)
