"""The twin benchmark: its clock divides time rightly, it runs, and a small fleet with a kill gives a whole row."""

import time

import pytest

from benchmarks.twin import run as twin
from benchmarks.twin.fleet import COLUMNS, FleetPlan, Track, Tracks, fleet_table
from benchmarks.twin.peers import peer_table
from benchmarks.twin.run import TwinBench
from benchmarks.twin.stages import STAGES, Clock, Cost
from protos.errors import InputError
from twin.scene import synthetic_scene


def rows(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return [line for line in lines if line[0] != "---"]


def number(cell):
    return float(cell.replace(",", ""))


def spin(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_time_of_an_inner_stage_is_not_the_outer_ones_too():
    clock = Clock()
    inner = clock.timed("inner", spin)

    def work():
        spin(0.02)
        inner(0.03)
        inner(0.01)

    clock.timed(lambda *_: "outer", work)()
    assert clock.seconds["inner"] == pytest.approx(0.04, abs=0.004)
    assert clock.seconds["outer"] == pytest.approx(0.02, abs=0.004)


def test_a_stage_can_be_left_out():
    cost = Cost(ms={"physics": 1.0, "wrist image": 3.0, "side image": 1.0})
    assert cost.steps_per_s() == 200.0
    assert cost.steps_per_s(without="wrist image") == 500.0


def test_a_small_run_has_every_stage_and_every_expert():
    found = rows(twin.run(TwinBench(quick=True)))
    stages = next(row for row in found if row[0] == "2")
    assert len(stages) == len(STAGES) + 3
    assert all(float(cell) > 0 for cell in stages[1 : len(STAGES) + 1])
    experts = {(row[0], row[1]): row[2] for row in found if row[1] in ("A", "B")}
    assert experts[("pick_and_place", "A")] == experts[("pick_and_place", "B")] == "2 of 2"


def test_a_peer_is_measured_or_the_reason_is_given():
    found = rows(peer_table(synthetic_scene(spacing_m=0.05), "pick_and_place", px=32, steps=8))
    ours, renderer = found[1:]
    assert number(ours[1]) > 0 and number(ours[2]) > 0
    assert "does not run here" in renderer[3] or (number(renderer[1]) > 0 and number(renderer[2]) > 0)


class SaysTurns:
    """A fleet of one actor, as `Tracks` asks it."""

    def __init__(self):
        self.actors, self.stats = [None], {}

    def supervise(self):
        """Its stats are what the test says."""


def test_a_killed_life_counts_for_recovery_and_not_as_a_gap(monkeypatch):
    now, fleet = [100.0], SaysTurns()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("os.kill", lambda pid, number: None)
    tracks = Tracks(fleet)

    def say(after_s, incarnation, turns):
        now[0] += after_s
        fleet.stats = {0: {"incarnation": incarnation, "pid": 1, "turns": turns}}
        tracks.update()
        return tracks.all[0]

    say(1, "a", [1, 1])
    assert say(3, "a", [2, 1]).longest_gap_s == 3
    tracks.kill(0)
    assert say(1, "a", [5, 5]).killed is not None, "what it said before it died does not count"
    say(5, "b", [])
    track: Track = say(4, "b", [1, 0])
    assert (track.recovered_s, track.killed, track.longest_gap_s) == ([10], None, 3)


def test_a_fleet_is_measured_and_a_killed_actor_is_back():
    (columns, row) = rows(fleet_table([FleetPlan(actors=2, twins=2, seconds=6.0, kills=1, px=32)]))
    found = dict(zip(columns, row, strict=True))
    assert tuple(columns) == COLUMNS
    assert (found["killed, back"], found["restarts"], found["stalls"]) == ("1 of 1", "1", "0")
    assert number(found["steps/s"]) > 0


def test_wrong_numbers_are_said():
    with pytest.raises(InputError, match="kill=5: 0 to the 4 actors"):
        TwinBench(kill=5)
    with pytest.raises(InputError, match="actors=0"):
        TwinBench(actors=0)
