"""These tests inspect datasets whose files are damaged in any way: a report or one line, never a traceback."""

import json
import logging

import pytest
from foreign_samples import SIDE, Motion, write_lerobot, write_rlds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learner.datasets.inspection import inspect_dataset
from protos.errors import TwinRLError

MOTIONS = [Motion.random(seed, 12) for seed in range(2)]
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ODD = st.sampled_from([None, True, -1, 0, 1e999, "x", "../../x", [], {}, [[]], 2**70])


@pytest.fixture(scope="module", params=["lerobot", "described", "rlds"])
def dataset(request, tmp_path_factory):
    """Returns what is inspected, and its files."""
    logging.getLogger("learner").setLevel(logging.CRITICAL)
    folder = tmp_path_factory.mktemp("d") / "data"
    poses = [motion.poses() for motion in MOTIONS]
    states = [each[:-1] for each in poses]
    path = folder
    if request.param == "rlds":
        write_rlds(folder, states, [each[1:] for each in poses])
    else:
        write_lerobot(folder, states, [motion.deltas() for motion in MOTIONS])
    if request.param == "described":
        path = folder.with_suffix(".json")
        path.write_text(json.dumps({"path": "data", "lerobot": {"side": SIDE, "wrist": None}}))
    yield path, sorted(each for each in folder.rglob("*") if each.is_file())
    logging.getLogger("learner").setLevel(logging.NOTSET)


def inspected(path):
    try:
        return inspect_dataset(path, episodes=3)
    except TwinRLError as error:
        assert "\n" not in str(error) and str(error)


@QUICK
@given(data=st.data())
def test_flipped_and_cut_files(dataset, data):
    path, files = dataset
    file = data.draw(st.sampled_from(files))
    whole = file.read_bytes()
    changed = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=20)):
        if changed:
            changed[place % len(changed)] = value
    try:
        file.write_bytes(changed)
        inspected(path)
    finally:
        file.write_bytes(whole)


@QUICK
@given(data=st.data())
def test_descriptions_of_other_types(dataset, data):
    path, files = dataset
    file = data.draw(st.sampled_from([each for each in files if each.suffix == ".json"]))
    whole = file.read_bytes()
    content = json.loads(whole)
    place, key = content, data.draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place, key = place[key], data.draw(st.sampled_from(sorted(place[key])))
    place[key] = data.draw(ODD)
    try:
        file.write_text(json.dumps(content))
        inspected(path)
    finally:
        file.write_bytes(whole)
