"""Tests that a cluster with hundreds of actors is readable in a terminal of 100 columns."""

import sys
from dataclasses import replace

import pytest
from cluster_samples import reader, reading, shard, weights, writer
from rich.console import Console

from services.monitor import Rates, rates_between, render_cluster


def shown(now, earlier=None):
    console = Console(width=100, record=True, file=sys.stderr)
    console.print(render_cluster(now, rates_between(earlier, now) if earlier else Rates()))
    return console.export_text()


def line(text, start):
    (found,) = [one for one in text.splitlines() if one.startswith(start)]
    return found


def fleet(count, **changes):
    return (*(writer(f"twin-{i}", shard=i % 2, **changes) for i in range(count)), reader())


def test_hundreds_of_healthy_actors_take_one_line():
    text = shown(reading(peers=fleet(300), weights=weights(*[812] * 40)))
    assert "300 writers  3,450 transitions/s" in text
    assert "twin-17" not in text
    assert "policy-" not in text
    assert "version 812, 0:03 old  40 subscribers" in text
    assert len(text.splitlines()) < 20


def test_of_hundreds_the_five_worst_are_shown_worst_first():
    peers = [*fleet(300), *(writer(f"bad-{i}", spool_bytes=1e8 * i, unsent=40 * i) for i in range(3, 10))]
    text = shown(reading(peers=tuple(peers)))
    rows = [one.split()[0] for one in text.splitlines() if one.startswith("bad-") and ":" not in one.split()[0]]
    assert [name for name in rows if name.count(",") == 0] == ["bad-9", "bad-8", "bad-7", "bad-6", "bad-5"]
    assert "█████████·  900 MB of 1 GB" in line(text, "bad-9 ")


def test_a_few_are_all_shown_with_what_they_wait_for():
    peers = (
        writer("lost", shard=1, connected=0.0),
        writer("held", waiting=1.0),
        writer("full", waiting=1.0, spool_bytes=9.5e8),
        writer("busy"),
        reader(),
    )
    text = shown(reading(peers=peers))
    assert "shard 1" in line(text, "lost ")
    assert "the learner" in line(text, "held ")
    assert "its spool" in line(text, "full ")
    assert "1 wait for the learner" in " ".join(text.split())


def test_lost_actors_are_counted_apart_and_unsent_segments_are_named_by_host():
    gone = replace(writer("gone", age_s=9.0, unsent=29.0), host="node2")
    text = shown(reading(peers=(writer("busy", unsent=2.0), gone, reader())))
    assert "1 writer  1 lost  12 transitions/s" in text
    assert "lost" in line(text, "gone ")
    assert line(text, "unsent segments:") == "unsent segments: node2 29, node 2"


def test_a_shard_that_is_away_is_red_and_the_other_is_shown():
    down = shard(1, problem="replay at rediss://10.0.0.4:6379 did not answer", version="", buffers={})
    text = shown(reading(shards=(shard(0), down)))
    assert text.splitlines()[0] == "shard 1: replay at rediss://10.0.0.4:6379 did not answer"
    assert "no answer" in line(text, "1 rediss://10.0.0.4:6379")
    assert "3 GB of 6 GB" in line(text, "0 rediss://10.0.0.3:6379")


def test_rates_of_buffers_come_from_two_looks():
    text = shown(reading(t=1_010.0), reading())
    assert line(text, "twin        0").endswith(" 0")
    assert "–" in line(shown(reading()), "twin        0")


def test_subscribers_that_are_behind_are_marked():
    text = shown(reading(weights=weights(812, 790, 0, using_s=73.0)))
    assert line(text, "policy-1  ").split()[1:] == ["790", "22", "73", "s", "812", "behind"]
    assert "has not said what it uses" in line(text, "policy-2  ")
    assert "3 subscribers  1 behind" in text


@pytest.mark.parametrize("count", [1, 300])
def test_nothing_is_wider_than_a_terminal(count):
    url = "unix:///a/very/long/path/to/the/folder/of/a/run/replay/valkey.sock"
    peers = fleet(count, spool_bytes=9e8, unsent=123_456, oldest_unsent_s=5_000, dropped=12_345, waiting=1)
    text = shown(reading(t=1_010.0, shards=(shard(0, url=url), shard(1, url=url)), peers=peers), reading(peers=peers))
    assert max(map(len, text.splitlines())) <= 100
    cut = [one for one in text.splitlines() if "…" in one and "valkey.sock" not in one]
    assert cut == []
