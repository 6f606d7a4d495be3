"""The watch begins, kills or leaves actors alone, by a clock of the test."""

import json

import pytest

from actors.quarantine import FaultLog
from actors.sim.twin_actor import shares
from actors.sim.watch import GATHER_S, HEALTHY_S, PAUSE_S, START_PER_ACTOR_S, START_S, FleetWatch, pause_s

STALL_S = 60.0
FIRST_S = START_S + START_PER_ACTOR_S


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Actor:
    """One watched actor; `say` is a round of the fleet."""

    def __init__(self):
        self.clock = Clock()
        self.watch = FleetWatch(1, stall_s=STALL_S, now=self.clock)
        self.stats = {"incarnation": "a", "began": False, "error": "", "throttled": "", "waits_for": "", "turns": []}

    def say(self, after_s=1.0, **changes):
        self.clock.now_s += after_s
        self.stats |= changes
        return self.watch.seen(0, self.stats)

    def silent(self, after_s):
        self.clock.now_s += after_s
        return self.watch.silent(0)

    def reborn(self, after_s=1.0):
        self.stats |= {"incarnation": self.stats["incarnation"] + "+", "began": False, "error": "", "turns": []}
        return self.say(after_s)


@pytest.fixture
def stepping():
    actor = Actor()
    assert actor.say() == "begin"
    assert actor.say(began=True, turns=[1, 1]) == actor.say(turns=[5, 5]) == ""
    return actor


def test_an_actor_begins_at_once_and_one_that_steps_is_left_alone(stepping):
    assert all(stepping.say(50.0, turns=[n, n]) == "" for n in range(6, 20))
    assert stepping.watch.restarts == stepping.watch.stalls == 0


def test_actors_begin_together_but_not_later_than_a_while_after_the_latest_arrival():
    clock = Clock()
    watch = FleetWatch(3, stall_s=STALL_S, now=clock)
    idle = {"incarnation": "a", "began": False, "error": "", "throttled": "", "waits_for": "", "turns": []}
    assert watch.seen(0, idle) == ""
    clock.now_s += GATHER_S
    assert watch.seen(1, idle) == "", "an arrival makes the others wait on"
    clock.now_s += GATHER_S
    assert watch.seen(0, idle) == ""
    clock.now_s += 1
    assert watch.seen(0, idle) == watch.seen(1, idle) == watch.seen(2, idle) == "begin"


def test_a_loop_that_stands_still_is_killed_once_and_named(stepping):
    assert stepping.say(STALL_S - 2, turns=[9, 5]) == ""
    assert stepping.say(2.0, turns=[12, 5]) == "kill"
    assert "group [1]" in stepping.watch.reason(0)
    assert stepping.say(STALL_S) == stepping.silent(STALL_S) == ""
    assert stepping.watch.stalls == 1


@pytest.mark.parametrize("who", ["waits_for", "throttled"])
def test_one_that_waits_for_somebody_is_not_stalled(stepping, who):
    assert stepping.say(10 * STALL_S, **{who: "learner"}) == stepping.say(STALL_S - 1, **{who: ""}) == ""
    assert stepping.say(2.0) == "kill"


def test_a_first_step_may_take_long():
    actor = Actor()
    actor.say()
    assert actor.say(FIRST_S - 1, began=True, turns=[1]) == ""
    assert actor.say(FIRST_S) == "kill"


def test_one_that_does_not_answer_is_killed(stepping):
    assert stepping.silent(STALL_S - 1) == "" and stepping.silent(1.0) == "kill"
    assert "no answer for 60 s" in stepping.watch.reason(0)
    fresh = Actor()
    assert fresh.silent(FIRST_S - 1) == "" and fresh.silent(1.0) == "kill"


def test_one_that_does_not_answer_is_lost_until_it_does(stepping):
    assert stepping.silent(4.0) == "" and stepping.watch.lost() == set()
    assert stepping.silent(0.5) == "" and stepping.watch.lost() == {0}
    assert stepping.say(0.5) == "" and stepping.watch.lost() == set()
    assert Actor().watch.lost() == set()  # one that has not come up yet


def test_failures_in_a_row_are_paused_longer_and_longer(stepping):
    pauses = []
    for _ in range(9):
        stepping.say(error="SceneError: no")
        verdict, waited = stepping.reborn(), 0.0
        while verdict != "begin":
            verdict, waited = stepping.say(0.5), waited + 0.5
            assert waited < 100
        pauses.append(waited)
        stepping.say(0.1, began=True)
    assert pauses == [pause_s(n + 1) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, PAUSE_S[1], PAUSE_S[1]]
    assert stepping.watch.restarts == 9


def test_what_a_pause_is_for_is_said(stepping):
    for _ in range(4):
        stepping.say(error="SceneError: no")
        stepping.reborn()
    assert stepping.watch.paused() == ["twin-0 failed 4 times in a row, next try in 4 s: SceneError: no"]


def test_a_healthy_minute_makes_up_for_failures(stepping):
    for _ in range(5):
        stepping.reborn()
    assert "its process ended" in stepping.watch.paused()[0]
    assert stepping.say(100.0) == "begin"
    assert stepping.say(HEALTHY_S + 1, began=True, turns=[9, 9]) == ""
    assert stepping.reborn() == "begin", "the first failure after it costs no pause"


def test_faults_are_written_once_and_starts_that_failed_twice_are_avoided(tmp_path):
    log = FaultLog(tmp_path / "quarantine.jsonl")
    fault = {"actor": "twin-0", "key": "A/1/x", "t": 1.0, "slot": 0, "reason": "NaN"}
    log.add([fault, fault])
    assert log.avoid == []
    log.add([fault, fault | {"t": 2.0}, fault | {"actor": "twin-1", "key": "other"}])
    log.killed("twin-1", "no progress", [["slot 0 cell 3"]])
    log.close()
    assert log.avoid == ["A/1/x"]
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [line["actor"] for line in lines] == ["twin-0", "twin-0", "twin-1", "twin-1"]
    assert all("key" not in line for line in lines) and lines[3]["standing"] == [["slot 0 cell 3"]]


@pytest.mark.parametrize(("twins", "groups", "sizes"), [(8, 2, [4, 4]), (5, 2, [3, 2]), (1, 2, [1]), (7, 3, [3, 2, 2])])
def test_groups_share_the_twins(twins, groups, sizes):
    assert shares(twins, groups) == sizes
