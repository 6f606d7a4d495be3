"""A stage goes on from its checkpoint, and refuses others."""

import json
from dataclasses import replace

import pytest
import torch
from samples import make_batch, make_policy

from learner.rl import CriticSettings, Phase, RlAgent, UpdateSettings
from learner.stage import checkpoint
from learner.stage.checkpoint import Checkpoint
from policy.checkpoint import save
from protos.errors import CorruptData, InputError

SETTINGS = UpdateSettings(critic=CriticSettings(width=16))


def make_updater(seed=5, settings=SETTINGS):
    return RlAgent(make_policy(), settings, seed=seed)


def content(updater, **changes):
    made = Checkpoint(
        kind="rl",
        tensors=updater.tensors(),
        progress={"updates": 3, "base": {"twin": 7}},
        settings={"gamma": 0.9},
        seed=5,
        weights={"version": 4, "parts": {"head": "0123456789abcdef"}},
        replay={"shards": [{"read": "1-0"}]},
    )
    return replace(made, **changes)


def test_an_agent_goes_on_as_if_it_had_never_stopped(tmp_path):
    updater = make_updater()
    for i in range(3):
        updater.update(make_batch(seed=i), Phase())
    saved = content(updater)
    checkpoint.save(tmp_path, saved)
    loaded = checkpoint.load(tmp_path, "rl")
    assert replace(loaded, tensors={}) == replace(saved, tensors={})
    other = make_updater()
    other.load_tensors(loaded.tensors)
    for i in range(3, 8):
        one, two = updater.update(make_batch(seed=i), Phase()), other.update(make_batch(seed=i), Phase())
        assert one.metrics == two.metrics
    for name, tensor in updater.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


def test_tensors_are_copies():
    updater = make_updater()
    before = updater.tensors()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    updater.update(make_batch(), Phase())
    assert all(torch.equal(before[name], kept[name]) for name in kept)
    assert not torch.equal(updater.tensors()["counters"], kept["counters"])


def test_the_newest_checkpoint_takes_the_place_of_the_one_before(tmp_path):
    updater = make_updater()
    checkpoint.save(tmp_path, content(updater))
    updater.update(make_batch(), Phase())
    checkpoint.save(tmp_path, content(updater, progress={"updates": 4}))
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoint.load(tmp_path, "rl").progress == {"updates": 4}


def test_damage_is_noticed(tmp_path):
    checkpoint.save(tmp_path, content(make_updater()))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(CorruptData, match="differs from the manifest"):
        checkpoint.load(tmp_path, "rl")


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"state": {"updates": 3}, "numpy_rng": None}, "written in format 1, .*go on with TwinRL 0.1, or start"),
        ({"format": 2, "kind": "rl"}, "written in format 2, this version reads format 3: go on with TwinRL 0.1, or"),
        ({"format": 99}, "written in format 99, .*go on with a later TwinRL"),
    ],
)
def test_folders_of_another_format_are_refused_with_the_version_that_reads_them(tmp_path, manifest, match):
    save(tmp_path, {"generator": torch.zeros(1)}, manifest)
    with pytest.raises(InputError, match=match):
        checkpoint.load(tmp_path, "rl")


def test_another_kind_of_stage_is_refused(tmp_path):
    checkpoint.save(tmp_path, content(make_updater()))
    with pytest.raises(InputError, match="a checkpoint of 'rl', not of 'sft'"):
        checkpoint.load(tmp_path, "sft")
    with pytest.raises(InputError, match="no checkpoint here"):
        checkpoint.load(tmp_path / "nowhere", "rl")


def test_a_manifest_that_lacks_something_is_refused(tmp_path):
    checkpoint.save(tmp_path, content(make_updater()))
    path = tmp_path / "manifest.json"
    record = json.loads(path.read_text())
    del record["manifest"]["progress"]
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptData, match="'progress'"):
        checkpoint.load(tmp_path, "rl")


def test_tensors_of_another_network_are_refused():
    other = make_updater(settings=UpdateSettings(critic=CriticSettings(width=32)))
    with pytest.raises(CorruptData, match="another network"):
        make_updater().load_tensors(other.tensors())
    with pytest.raises(CorruptData, match="another network"):
        make_updater().load_tensors({"policy.x": torch.zeros(1)})


def test_critics_of_an_earlier_stage_go_on_without_its_optimizers():
    earlier, fresh = make_updater(), make_updater(seed=6)
    earlier.update(make_batch(), Phase())
    start = fresh.tensors()
    fresh.load_tensors(checkpoint.with_critics(start, earlier.tensors()))
    found = fresh.tensors()
    for name, tensor in found.items():
        wanted = earlier.tensors() if name.startswith(("critic.", "target.")) else start
        assert torch.equal(tensor, wanted[name]), name
    assert found["counters"].tolist() == [0, 0]
