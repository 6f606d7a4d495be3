"""A real fleet with a poisoned twin and an actor that hangs: both are named, and everybody else goes on."""

import json
from pathlib import Path

import pytest
from fleet_process import running_fleet, wait_until
from weights_process import WeightsProcess

from actors.quarantine import SLOT_LIMIT
from actors.sim import TwinWorld
from services.replay import EmbeddedServer, ReplaySettings, totals
from twin.scene import synthetic_scene

DEADLINE_S = 120.0


@pytest.fixture
def replay(tmp_path):
    with EmbeddedServer(tmp_path / "valkey") as server:
        yield ReplaySettings(urls=(server.url,))


@pytest.fixture
def fleet(replay, tmp_path):
    synthetic_scene().save(tmp_path / "scene")
    program = str(Path(__file__).with_name("faulty_fleet.py"))
    world = TwinWorld(scene=tmp_path / "scene")
    with (
        WeightsProcess(tmp_path / "weights") as weights,
        running_fleet(world, replay, weights, tmp_path, program, stall_s=8.0, call_timeout_s=5.0) as fleet,
    ):
        yield fleet


def entries(run_dir, actor):
    path = run_dir / "quarantine.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["actor"] == actor]


def test_a_poisoned_twin_stays_out_and_a_hung_actor_comes_back(fleet, replay, tmp_path):
    wait_until(lambda: fleet.status is not None and "quarantined" in fleet.status.doing, DEADLINE_S, "a slot is out")
    assert "quarantined: twin-0 slot 1 (seed" in fleet.status.doing and "not finite" in fleet.status.doing
    wait_until(lambda: fleet.status.rates.get("restarts", 0) >= 1, DEADLINE_S, "the hung actor has another life")
    (killed,) = entries(tmp_path, "twin-1")
    assert "no progress of group [0]" in killed["reason"]
    assert [slot.split(" cell")[0] for slot in killed["standing"][0]] == ["slot 0", "slot 1"]
    wait_until(lambda: fleet.status.doing.startswith("2 of 2"), DEADLINE_S, "both step")
    before = totals(replay)["twin"]
    wait_until(lambda: totals(replay)["twin"] > before + 64, DEADLINE_S, "transitions go on")
    faults = entries(tmp_path, "twin-0")
    assert [fault["quarantined"] for fault in faults] == [False] * (SLOT_LIMIT - 1) + [True]
    assert {fault["slot"] for fault in faults} == {1} and len({str(fault["poses"]) for fault in faults}) == SLOT_LIMIT
    assert (fleet.status.rates["stalls"], fleet.status.rates["quarantined_slots"]) == (1, 1)
