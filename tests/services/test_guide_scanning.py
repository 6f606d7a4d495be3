"""Scanning twins and the guide: passes over the cells, results that age, and what is kept of them over time."""

import json
from collections import Counter
from dataclasses import replace
from uuid import uuid4

import pytest
from service_process import ServiceProcess, until
from test_guide_schedule import SCAN, SPACE
from test_guide_service import Result

from protos.errors import InputError, Unreachable
from protos.files import read_lines
from protos.schema import Configuration, Outcome
from protos.settings import save_settings
from services.guide import GuideClient, GuideSettings, SteadyGuide
from services.guide.schedule import TWIN_VERSIONS, Schedule

SETTINGS = GuideSettings(space=SPACE, explore=0.0, half_life=4.0, refresh=5, rollouts=2, seed=11)
WON, LOST = Outcome.SUCCESS, Outcome.TIMEOUT
ALL_WON = dict.fromkeys(range(8), (4, 4))


def schedule(**settings):
    return Schedule(replace(SETTINGS, **settings))


def report(guide, cell, outcome, version, *, twin=True):
    start = Configuration(region="A", cell=cell)
    assert guide.report(start, outcome, 0, report_id=uuid4().hex, version=version, twin=twin)


def rate(guide, cell):
    return guide.success_map()[cell].rate


def test_old_results_of_the_twin_count_less_than_new_ones():
    guide = schedule()
    guide.set_success({2: (4, 4)}, version=10)
    report(guide, 2, LOST, 14)
    assert rate(guide, 2) == pytest.approx(4 * 0.5 / (4 * 0.5 + 1))
    report(guide, 2, WON, 18)
    assert rate(guide, 2) == pytest.approx((4 * 0.25 + 1) / (4 * 0.25 + 0.5 + 1))
    cell = guide.success_map()[2]
    assert (cell.twin_successes, cell.twin_rollouts, cell.twin_version) == (5, 6, 18)


def test_a_result_that_comes_late_is_as_old_as_its_version():
    early, late = schedule(), schedule()
    for guide, order in ((early, (0, 1, 2)), (late, (2, 0, 1))):
        for turn in order:
            report(guide, 3, (WON, LOST, WON)[turn], (6, 10, 14)[turn])
    assert early.success_map() == late.success_map()


def test_the_target_set_follows_the_policy():
    guide = schedule(tau=0.8)
    guide.set_success(ALL_WON | {5: (0, 4)}, version=10)
    assert [cell.cell for cell in guide.success_map() if cell.target] == [5]
    for version in range(12, 32, 2):
        report(guide, 5, WON, version)
        report(guide, 6, LOST, version)
    assert [cell.cell for cell in guide.success_map() if cell.target] == [6]


def test_without_new_results_the_twins_map_stays_as_it_is():
    guide = schedule()
    guide.set_success(SCAN, version=10)
    before = {cell.cell: cell.rate for cell in guide.success_map()}
    report(guide, -1, WON, 5000, twin=False)
    assert {cell.cell: cell.rate for cell in guide.success_map()} == before


def test_outcomes_of_the_arm_age_too():
    guide = schedule(twin_weight=4.0)
    guide.set_success({0: (4, 4)}, version=10)
    report(guide, 0, LOST, 10, twin=False)
    assert rate(guide, 0) == pytest.approx(4 / 5)
    report(guide, -1, WON, 18, twin=False)
    assert rate(guide, 0) == pytest.approx(4 / 4.25)


def test_nothing_is_forgotten_without_a_half_life():
    guide = schedule(half_life=0.0)
    guide.set_success({0: (3, 4)}, version=10)
    report(guide, 0, WON, 900)
    report(guide, 0, LOST, 1000, twin=False)
    assert rate(guide, 0) == pytest.approx(4 * 0.8 / 5)


def test_results_without_a_version_count_fully():
    guide = schedule()
    report(guide, 0, LOST, -1)
    report(guide, 0, WON, 100)
    assert rate(guide, 0) == 0.5


def test_so_many_versions_are_kept_of_a_cell():
    guide = schedule(half_life=0.0)
    for version in range(TWIN_VERSIONS + 3):
        report(guide, 1, WON, version)
    assert guide.success_map()[1].twin_rollouts == TWIN_VERSIONS


def test_an_evaluation_replaces_what_is_older_and_nothing_newer():
    guide = schedule()
    guide.set_success(ALL_WON, version=10)
    report(guide, 3, LOST, 12)
    guide.set_success(dict.fromkeys(range(8), (1, 2)), version=10)
    cells = guide.success_map()
    assert (cells[3].twin_successes, cells[3].twin_rollouts) == (4, 5)
    assert (cells[4].twin_successes, cells[4].twin_rollouts) == (1, 2)


def drawn(guide):
    starts = iter(guide.next_scan, None)
    return Counter(start.cell for start in starts)


def test_a_pass_tries_every_cell_and_the_next_waits_for_new_versions():
    guide = schedule()
    guide.set_success(ALL_WON, version=10)
    assert guide.next_scan() is None, "the evaluation stands for a pass"
    report(guide, 0, WON, 14, twin=False)
    assert guide.next_scan() is None
    report(guide, 0, WON, 15, twin=False)
    assert drawn(guide) == dict.fromkeys(range(8), 2)
    assert guide.next_scan() is None
    report(guide, 1, WON, 20)
    assert drawn(guide) == dict.fromkeys(range(8), 2)


def test_without_an_evaluation_the_first_pass_begins_at_once():
    assert drawn(schedule(rollouts=3)) == dict.fromkeys(range(8), 3)


def test_a_scan_starts_in_its_cell_and_does_not_change_what_the_arm_is_given():
    with_scans, without = schedule(), schedule()
    for guide in (with_scans, without):
        guide.set_success(SCAN)
    for _ in range(10):
        start = with_scans.next_scan()
        assert SPACE.cell_of(*start.poses["cube"][:2]) == start.cell
        assert with_scans.draw() == without.draw()


def test_a_pass_goes_on_after_a_restart():
    guide, resumed = schedule(), schedule()
    for _ in range(5):
        guide.next_scan()
    report(guide, 4, LOST, 7)
    resumed.restore(json.loads(json.dumps(guide.state())))
    assert resumed.targets() == guide.targets()
    assert list(iter(resumed.next_scan, None)) == list(iter(guide.next_scan, None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"half_life": -1.0}, "half_life=-1.0"),
        ({"half_life": float("inf")}, "half_life=inf"),
        ({"refresh": 0}, "refresh=0: choose 1 to 10000"),
        ({"rollouts": 0}, "rollouts=0: choose 1 to 100"),
        ({"rollouts": 101}, "rollouts=101"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        schedule(**settings)


@pytest.fixture
def server(tmp_path):
    settings = save_settings(SETTINGS, tmp_path / "guide.json")
    kept = ("--state", str(tmp_path / "state.json"), "--history", str(tmp_path / "history"))
    with ServiceProcess("services.guide", tmp_path, "--settings", str(settings), *kept) as process:
        yield process


@pytest.fixture
def client(server):
    client = GuideClient(server.address, deadline_s=30)
    yield client
    client.close()


def test_a_process_gives_scans_takes_results_and_keeps_both_over_a_kill(server, client, tmp_path):
    local = schedule()
    for turn in range(16):
        start = client.next_scan()
        assert start == local.next_scan()
        result = Result(start, LOST if start.cell == 5 else WON, steps=30 + turn, version=7)
        client.report(result, twin=True)
        report(local, start.cell, result.outcome, 7)
        if turn == 8:
            server.kill()
            server.start()
    assert client.next_scan() is None
    assert client.success_map() == local.success_map()
    scans = read_lines(tmp_path / "history" / "scans.jsonl")
    assert [line["steps"] for line in scans] == list(range(30, 46))
    assert all(line["version"] == 7 and line["success"] == (line["cell"] != 5) for line in scans)


def test_the_target_set_is_kept_over_time(client, tmp_path):
    client.set_success(ALL_WON | {6: (0, 4)}, version=3)
    for version in (4, 5, 20):
        client.report(Result(Configuration(region="B", cell=6), WON, version=version), twin=True)
    client.report(Result(Configuration(region="A", cell=1), WON, version=20))
    lines = read_lines(tmp_path / "history" / "targets.jsonl")
    assert [line["regions"]["B"]["targets"] for line in lines] == [1, 0, 0], "evaluation, cell 6 leaves, an episode"
    assert lines[0]["regions"]["B"] == {"cells": 4, "targets": 1, "success": 0.75}
    assert (lines[-1]["scans"], lines[-1]["episodes"], lines[-1]["version"]) == (3, 1, 20)
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)


def test_an_arm_goes_on_by_the_last_map_and_what_it_reported_counts_once(server, client):
    client.set_success(ALL_WON | {5: (0, 4)}, version=3)
    steady = SteadyGuide(client, SPACE, seed=0)
    assert steady.next().cell == 5
    assert steady.away == ""
    server.kill()
    for _ in range(3):
        start = steady.next()
        assert start.cell == SPACE.cell_of(*start.poses["cube"][:2])
        steady.report(Result(start, WON, version=4))
    assert server.address in steady.away
    server.start()
    until(lambda: steady.next() and not steady.away, "it draws from the guide again")
    assert sum(cell.real_episodes for cell in client.success_map()) == 3


def test_an_arm_without_any_map_needs_the_guide():
    client = GuideClient("127.0.0.1:1", deadline_s=0.3)
    with pytest.raises(Unreachable, match=r"guide service at 127\.0\.0\.1:1"):
        SteadyGuide(client, SPACE, seed=0).next()
    client.close()
