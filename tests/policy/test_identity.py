"""What weights are called, and that nobody acts with others than those: actors and policy folders."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples_policy import TEXT, Published, make_policy, observation

from policy import checkpoint
from policy.acting import BatchActor
from policy.identity import part_digest, wire_id
from protos.errors import CorruptData, InputError


def copied(parts):
    return {part: {name: array.copy() for name, array in arrays.items()} for part, arrays in parts.items()}


def act(actor, seed=5):
    return actor.act(observation(), generator=torch.Generator().manual_seed(seed))


def test_the_id_follows_every_tensor_of_every_part():
    policy = make_policy()
    ids = [policy.weights_id()]
    for tensor in (
        policy.head.net[0].bias,
        policy.normalization.mean,
        policy.auxiliary.bias,
        policy.octo.positions["side"],
    ):
        with torch.no_grad():
            tensor.add_(1e-3)
        policy.touch()
        ids.append(policy.weights_id())
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)
    assert policy.weights_id() == wire_id(policy.parts())
    assert policy.weights_id(["head"]) != policy.weights_id(["backbone"]) != policy.weights_id()


def test_a_part_is_hashed_again_when_it_was_loaded_or_touched():
    policy, other = make_policy(1), make_policy(2)
    mine, theirs = policy.weights_id(), other.weights_id()
    policy.load_parts(other.parts())
    assert policy.weights_id() == theirs
    policy.load_state_dict(make_policy(1).state_dict())
    assert policy.weights_id() == mine
    with torch.no_grad():
        policy.head.net[0].bias += 1
    assert policy.weights_id() == mine, "nobody said so"
    policy.touch("backbone")
    assert policy.weights_id() == mine
    policy.touch("head")
    assert policy.weights_id() != mine
    policy.set_normalization(other.normalization)
    assert policy.weights_id() == wire_id(policy.parts())


def test_rounded_weights_have_the_id_of_what_arrives():
    parts = make_policy().parts()
    arrived = {"backbone": parts["backbone"], "head": {}}
    for name, array in parts["head"].items():
        matrix = array.ndim > 1
        arrived["head"][name] = torch.from_numpy(array).to(torch.bfloat16).float().numpy() if matrix else array
    assert wire_id(parts, "bf16") == wire_id(arrived) != wire_id(parts)
    assert wire_id(parts, "bf16", exact=("backbone", "head")) == wire_id(parts)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(width=32, allow_nan=False), max_size=4), max_size=4))
def test_digests_know_names_order_and_shapes(tensors):
    arrays = {name: np.array(values, np.float32) for name, values in tensors.items()}
    assert part_digest(arrays) == part_digest(dict(reversed(arrays.items())))
    digests = [part_digest(arrays), part_digest({f"{name}x": array for name, array in arrays.items()})]
    digests += [part_digest({name: array[None] for name, array in arrays.items()})]
    assert not arrays or all(a != b for a, b in pairwise(digests))


def test_an_actor_refuses_weights_that_are_not_the_promised_ones():
    source = make_policy(1)
    honest, forged = Published(source), Published(source, version=8)
    honest.settings["weights_id"] = forged.settings["weights_id"] = wire_id(honest.parts)
    forged.parts = copied(forged.parts)
    forged.parts["head"]["head.net.0.bias"][3] += 1e-6
    actor = BatchActor(make_policy(2), TEXT)
    actor.load(honest)
    before = act(actor)
    with pytest.raises(CorruptData, match=r"version 8 holds weights \w{16}, its settings promise"):
        actor.load(forged)
    assert actor.version == 7
    for found, wanted in zip(act(actor), before, strict=True):
        assert (found == wanted).all(), "it goes on with what it had"
    with pytest.raises(CorruptData, match="version 8"):
        BatchActor.from_weights(forged, TEXT)


def test_parts_that_did_not_change_are_neither_hashed_nor_copied_again():
    source = make_policy(1)
    first = Published(source)
    actor = BatchActor.from_weights(first, TEXT)
    with torch.no_grad():
        actor.policy.octo.positions["readout"] += 1.0  # a copy would undo this
    following = Published(make_policy(3), version=9)
    following.parts["backbone"] = first.parts["backbone"]
    following.settings["weights_id"] = wire_id(following.parts)
    actor.load(following)
    assert actor.version == 9
    assert not torch.equal(actor.policy.octo.positions["readout"], source.octo.positions["readout"])
    assert torch.equal(actor.policy.head.net[0].bias, make_policy(3).head.net[0].bias)


def test_weights_that_do_not_fit_leave_the_actor_as_it_was():
    actor = BatchActor(make_policy(2), TEXT)
    before = act(actor)[0]
    broken = Published(make_policy(1))
    broken.parts["head"].pop("head.net.0.bias")
    with pytest.raises(InputError, match="another network"):
        actor.load(broken)
    assert (act(actor)[0] == before).all()


def test_checkpoint_round_trip_and_refusals(tmp_path):
    policy = make_policy()
    checkpoint.save_policy(tmp_path / "a", policy, step=3)
    loaded = checkpoint.load_policy(tmp_path / "a")
    assert loaded.settings == policy.settings
    assert (act(BatchActor(loaded, TEXT))[0] == act(BatchActor(policy, TEXT))[0]).all()
    assert checkpoint.load(tmp_path / "a")[1]["step"] == 3
    checkpoint.save_policy(tmp_path / "a", make_policy(1))
    (file,) = (tmp_path / "a").glob("*.safetensors")  # the older one is gone
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptData, match="sha256"):
        checkpoint.load_policy(tmp_path / "a")
    with pytest.raises(InputError, match="no checkpoint here"):
        checkpoint.load_policy(tmp_path / "nowhere")
    (tmp_path / "a" / "manifest.json").write_text("[]")
    with pytest.raises(CorruptData, match="not a checkpoint manifest"):
        checkpoint.load_policy(tmp_path / "a")


def test_a_folder_whose_manifest_names_other_weights_is_refused(tmp_path):
    checkpoint.save_policy(tmp_path, make_policy(), weights_id="of the wire")
    path = tmp_path / "manifest.json"
    record = json.loads(path.read_text())
    assert record["manifest"]["weights_id"] == make_policy().weights_id(), "the tensors' own, whatever else is noted"
    record["manifest"]["weights_id"] = make_policy(1).weights_id()
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptData, match=r"these weights are \w{16}, the manifest says \w{16}"):
        checkpoint.load_policy(tmp_path)
    del record["manifest"]["weights_id"]  # as folders of earlier versions
    path.write_text(json.dumps(record))
    assert checkpoint.load_policy(tmp_path).weights_id() == make_policy().weights_id()
