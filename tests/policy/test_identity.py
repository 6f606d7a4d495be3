"""These tests check the names of weights, in policy folders and where weights are acted with."""

import json
import subprocess
import sys

import pytest
import torch
from samples_policy import TEXT, Published, make_policy, observation

from policy import checkpoint
from policy.acting import BatchActor
from policy.model import PARTS
from protos.errors import CorruptData, InputError
from protos.tensors import part_sha256


def act(actor, seed=5):
    return actor.act(observation(), generator=torch.Generator().manual_seed(seed))


def test_the_name_of_a_part_follows_every_tensor():
    policy = make_policy()
    names = [(policy.sha256("backbone"), policy.sha256("head"))]
    for tensor in (
        policy.head.net[0].bias,
        policy.normalization.mean,
        policy.auxiliary.bias,
        policy.octo.positions["side"],
    ):
        with torch.no_grad():
            tensor.add_(1e-3)
        names.append((policy.sha256("backbone"), policy.sha256("head")))
    assert len(set(names)) == len(names)
    assert len({backbone for backbone, _ in names}) == 2, "the head's tensors are not the backbone's"
    assert all(name == part_sha256(policy.parts()[part]) for part, name in zip(PARTS, names[-1], strict=True))


def test_a_loaded_part_has_the_name_of_the_one_it_came_from():
    policy, other = make_policy(1), make_policy(2)
    mine, theirs = policy.sha256("head"), other.sha256("head")
    policy.load_parts(other.parts())
    assert policy.sha256("head") == theirs != mine
    policy.load_state_dict(make_policy(1).state_dict())
    assert policy.sha256("head") == mine
    policy.set_normalization(other.normalization)
    assert policy.sha256("head") == part_sha256(policy.parts()["head"]) != mine


def test_an_actor_refuses_another_backbone_than_the_promised_one():
    source, stranger = make_policy(1), make_policy(3)
    honest, forged = Published(source), Published(stranger, version=8)
    honest.settings["backbone_id"] = forged.settings["backbone_id"] = source.sha256("backbone")
    actor = BatchActor(make_policy(2), TEXT)
    actor.load(honest)
    before = act(actor)
    with pytest.raises(CorruptData, match=r"version 8 holds backbone \w{16}…, its settings promise \w{16}…"):
        actor.load(forged)
    assert actor.version == 7
    for found, wanted in zip(act(actor), before, strict=True):
        assert (found == wanted).all(), "it goes on with what it had"
    with pytest.raises(CorruptData, match="version 8"):
        BatchActor.from_weights(forged, TEXT)


def test_an_actor_refuses_weights_without_a_part():
    lacking = Published(make_policy(1))
    lacking.parts.pop("backbone"), lacking.sha256.pop("backbone")
    with pytest.raises(InputError, match="version 7 holds no part 'backbone', only head"):
        BatchActor.from_weights(lacking, TEXT)


def test_parts_that_did_not_change_are_not_copied_again():
    source = make_policy(1)
    first = Published(source)
    actor = BatchActor.from_weights(first, TEXT)
    with torch.no_grad():
        actor.policy.octo.positions["readout"] += 1.0  # a copy would undo this
    following = Published(make_policy(3), version=9)
    following.parts["backbone"], following.sha256["backbone"] = first.parts["backbone"], first.sha256["backbone"]
    actor.load(following)
    assert actor.version == 9
    assert actor.backbone_id == first.sha256["backbone"] == source.sha256("backbone")
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
    checkpoint.save_policy(tmp_path, make_policy(), parts="of the wire")
    path = tmp_path / "manifest.json"
    record = json.loads(path.read_text())
    own, other = ({part: make_policy(seed).sha256(part) for part in PARTS} for seed in (0, 1))
    assert record["manifest"]["parts"] == own, "the tensors' own, whatever else is noted"
    record["manifest"]["parts"] = own | {"head": other["head"]}
    path.write_text(json.dumps(record))
    with pytest.raises(CorruptData, match=r"its head is \w{16}…, the manifest says \w{16}…"):
        checkpoint.load_policy(tmp_path)
    del record["manifest"]["parts"]  # as folders of earlier versions, which had the hash `weights_id`
    record["manifest"]["weights_id"] = "0123456789abcdef"
    path.write_text(json.dumps(record))
    assert checkpoint.load_policy(tmp_path).sha256("head") == own["head"]


def test_a_policy_is_read_without_torchs_compiler(tmp_path):
    checkpoint.save_policy(tmp_path, make_policy())
    program = (
        "import sys\nfrom pathlib import Path\nfrom policy.checkpoint import load_policy\n"
        f"load_policy(Path({str(tmp_path)!r}))\nsys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
