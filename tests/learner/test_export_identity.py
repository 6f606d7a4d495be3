"""These tests export recordings twice: an episode is itself by its content, wherever its folder lies or is called."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot_others import describe, make, poses
from lerobot_samples import SCALE, make_episode
from lerobot_samples import SCHEMA as SIZES
from rlds_samples import episode, write_dataset

from learner.datasets import make_writer, open_dataset
from protos.errors import InputError, SchemaMismatch
from protos.schema import Schema
from twinrl.commands import export

SCALE_FLAGS = ("--metres", "0.003", "--radians", "0.1", "--side-px", "32", "--wrist-px", "16")


def day(folder, name, *, sign=1, fps=10, lengths=(6,)):
    state, action = poses(sum(lengths))
    action[:, 0] *= sign
    return describe(make(folder / name / "data", list(lengths), state=state, action=action, fps=fps))


def run(source, out, capsys, *more):
    """Exports; returns how many episodes were written and how many were there."""
    assert export.main([str(source), "--out", str(out), *SCALE_FLAGS, *more]) == 0
    said = capsys.readouterr().out
    there = re.search(r"(\d+) more episodes were there already", said)
    return int(re.search(r"(\d+) episodes, ", said)[1]), int(there[1]) if there else 0


def names(out):
    return [row["twinrl/name"] for row in pq.read_table(out / "meta/episodes").to_pylist()]


def test_two_folders_of_one_name_are_two_recordings(tmp_path, capsys):
    out = tmp_path / "all"
    for each, sign in (("monday", 1), ("tuesday", -1)):
        assert run(day(tmp_path, each, sign=sign), out, capsys) == (1, 0)
    assert len(set(names(out))) == 2 and all(re.fullmatch(r"data/000000@[0-9a-f]{16}", name) for name in names(out))
    firsts = [pq.read_table(path)["action"][0].as_py()[0] for path in sorted((out / "data").rglob("*.parquet"))]
    assert firsts == pytest.approx([1, -1])


@pytest.mark.parametrize("kind", ["lerobot", "rlds"])
def test_the_same_recording_again_adds_nothing_and_says_so(tmp_path, capsys, kind):
    source, out = day(tmp_path, "monday", lengths=(6, 5)), tmp_path / "all"
    assert run(source, out, capsys, "--format", kind) == (2, 0)
    assert run(source, out, capsys, "--format", kind) == (0, 2)
    moved = tmp_path / "elsewhere"
    shutil.move(source.parent, moved)
    (moved / "data").rename(moved / "towels")
    assert run(describe(moved / "towels"), out, capsys, "--format", kind) == (0, 2)


def test_two_versions_of_one_rlds_name_are_two_recordings(tmp_path, capsys):
    rng, out = np.random.default_rng(0), tmp_path / "all"
    for number, version in enumerate(("1.0.0", "2.0.0"), start=1):
        write_dataset(tmp_path / version, [[episode(rng)]], version=version)
        described = tmp_path / f"{number}.json"
        described.write_text(json.dumps({"path": version, "rlds": {"hz": 5}}))
        assert run(described, out, capsys) == (1, 0)
        assert run(described, out, capsys) == (0, 1)
    assert len(list(open_dataset(out, Schema(side_px=32, wrist_px=16)))) == 2


def test_an_export_of_before_takes_new_episodes_and_refuses_what_it_may_have(tmp_path, capsys):
    """Earlier versions named an episode by its folder alone."""
    sizes = Schema(side_px=32, wrist_px=16)
    scale = type(SCALE)(metres=0.003, radians=0.1)
    writer = make_writer("lerobot", tmp_path / "old", sizes, action_scale=scale)
    writer.add(make_episode(np.random.default_rng(0), name="data/000000", schema=sizes))
    other = day(tmp_path, "other")
    (tmp_path / "other/data").rename(tmp_path / "other/more")
    other = describe(tmp_path / "other/more")
    assert run(other, tmp_path / "old", capsys) == (1, 0)
    with pytest.raises(InputError, match=r"'data/000000' is there already, .* export to a new folder"):
        run(day(tmp_path, "monday", sign=-1), tmp_path / "old", capsys)
    assert len(names(tmp_path / "old")) == 2


@pytest.mark.parametrize("kind", ["lerobot", "rlds"])
def test_a_folder_holds_one_rate(tmp_path, capsys, kind):
    out = tmp_path / "all"
    run(day(tmp_path, "fast", fps=30), out, capsys, "--format", kind)
    with pytest.raises(SchemaMismatch, match=r"frames per second|or rate"):
        run(day(tmp_path, "slow", fps=10), out, capsys, "--format", kind)
    (found,) = open_dataset(out, Schema(side_px=32, wrist_px=16))
    assert found.hz == 30.0


@pytest.mark.parametrize("kind", ["lerobot", "rlds"])
def test_a_writer_takes_no_episode_of_another_or_an_unknown_rate(tmp_path, kind):
    writer = make_writer(kind, tmp_path / "d", SIZES, action_scale=SCALE, hz=15.0)
    for hz, word in ((None, "an unknown rate"), (10.0, "10 Hz")):
        with pytest.raises(SchemaMismatch, match=f"recorded at {word}, this dataset holds 15 Hz"):
            writer.add(make_episode(np.random.default_rng(0), hz=hz))


def test_data_of_an_unknown_rate_are_not_exported(tmp_path, capsys):
    write_dataset(tmp_path / "cups", [[episode(np.random.default_rng(0))]])
    with pytest.raises(InputError, match=r"do not say at which rate .*give their rate \(hz\) in a settings file"):
        run(tmp_path / "cups", tmp_path / "all", capsys)


def test_what_could_not_be_read_is_said(tmp_path, capsys):
    source = day(tmp_path, "monday", lengths=(6, 0, 6))
    assert export.main([str(source), "--out", str(tmp_path / "all"), *SCALE_FLAGS]) == 0
    assert re.search(r"1 episodes? could not be read: .*/data: episode 1: it has no rows", capsys.readouterr().out)


def test_an_old_folder_of_rlds_without_a_rate_is_at_control_s(tmp_path):
    writer = make_writer("rlds", tmp_path / "d", SIZES, action_scale=SCALE)
    writer.add(make_episode(np.random.default_rng(0), name="a"))
    writer.close()
    mark = tmp_path / "d/twinrl.json"
    mark.write_text(json.dumps({k: v for k, v in json.loads(mark.read_text()).items() if k != "hz"}))
    writer = make_writer("rlds", tmp_path / "d", SIZES, action_scale=SCALE)
    writer.add(make_episode(np.random.default_rng(1), name="b"))
    writer.close()
    assert [(each.name, each.hz) for each in open_dataset(tmp_path / "d", SIZES)] == [("a", 10.0), ("b", 10.0)]
