"""The online loop is paced by a replay written by hand that checks what it is asked."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from samples import make_batch, make_policy, replay_batch

from learner.rl import (
    BatchSettings,
    CriticSettings,
    LoopSettings,
    OnlineLoop,
    Outlets,
    Progress,
    RlAgent,
    UpdateSettings,
)
from learner.rl.batches import COLUMNS
from protos.errors import InputError, Unreachable

BATCH = {"online": {"twin": 4}, "demo": {"demo": 4}}
LOOP = {
    "env_steps": 60,
    "utd": 0.5,
    "start_after": 10,
    "slack": 20,
    "warmup_updates": 3,
    "publish_every": 5,
    "checkpoint_every": 10,
    "log_every": 4,
    "data_timeout_s": 5.0,
}


@dataclass
class Replay:
    """Lets 5 transitions arrive at every look, up to the allowance."""

    total: int = 1000
    """Transitions before the stage begins."""
    arrive: bool = True
    allowances: list = field(default_factory=list)
    sampled: list = field(default_factory=list)
    told: list = field(default_factory=list)
    """Calls of the loop about priorities and cells."""

    def counts(self):
        return {"demo": 100, "twin": self.total}

    def received(self):
        if self.arrive and self.allowances:
            self.total = min(self.total + 5, self.allowances[-1])
        return {"demo": 100, "twin": self.total}

    def sample(self, rng, sizes, *, out=None):
        assert set(sizes) <= {"demo", "twin"}
        assert all(size > 0 for size in sizes.values())
        self.sampled.append(dict(sizes))
        rows = sum(sizes.values())

        arrays = {name: tensor.numpy() for name, tensor in make_batch(rows, seed=int(rng.integers(1000))).items()}
        assert set(COLUMNS) <= set(arrays)
        return replay_batch(version=np.arange(rows) - 1, **arrays)

    def allow(self, buffer, total):
        assert buffer == "twin"
        self.allowances.append(total)

    def update_priorities(self, batch, errors):
        assert errors.shape == batch.version.shape
        assert (errors >= 0).all()
        self.told.append(("priorities", len(errors)))

    def anneal(self, progress):
        assert 0 <= progress <= 1

    def success_rates(self, buffer):
        return {3: 0.25, 5: 1.0}

    def weigh_cells(self, buffer, weights):
        self.told.append((buffer, weights))


def make_loop(replay, progress=None, sampling=None, **changes):
    updater = RlAgent(make_policy(), UpdateSettings(critic=CriticSettings(width=16)), seed=0)
    events = []

    def publish():
        events.append("publish")
        return events.count("publish")

    outlets = Outlets(
        publish=publish,
        checkpoint=lambda: events.append("checkpoint"),
        record=lambda **line: events.append(line),
    )
    loop = OnlineLoop(
        updater,
        replay,
        LoopSettings(**(LOOP | changes)),
        BatchSettings(**(BATCH | {"sampling": sampling or {}})),
        outlets,
        progress=progress or Progress(base={"twin": 1000}),
        seed=0,
    )
    return loop, events


def test_updates_follow_the_received_transitions():
    replay = Replay()
    loop, events = make_loop(replay)
    assert loop.run(lambda: False)
    assert loop.progress.warmup == 3
    assert loop.progress.updates == 25  # utd 0.5 x (60 - 10)
    assert events.count("publish") == 6  # one at once, then every 5
    assert events.count("checkpoint") == 2
    warmup, online = replay.sampled[1:4], replay.sampled[4:]
    assert warmup == [{"demo": 8}] * 3
    assert online == [{"twin": 4, "demo": 4}] * 25
    assert all(b - 1000 <= 10 + 2 * 25 + 20 for b in replay.allowances)
    assert replay.allowances == sorted(replay.allowances)
    lines = [event for event in events if isinstance(event, dict)]
    assert all(line["total"] == 60 and line["step"] <= 60 for line in lines)
    assert {"td", "bc", "actor_q", "version", "updates"} <= lines[-1].keys()


def test_a_long_warm_up_is_checkpointed_too():
    loop, events = make_loop(Replay(), warmup_updates=20)
    loop.run(lambda: loop.progress.warmup == 20)
    assert events.count("checkpoint") == 2


def test_without_a_strategy_nothing_is_told():
    replay = Replay()
    loop, _ = make_loop(replay)
    assert loop.run(lambda: False)
    assert replay.told == []


def test_priorities_follow_every_update():
    replay = Replay()
    loop, _ = make_loop(replay, sampling={"twin": "priority"})
    assert loop.run(lambda: False)
    assert replay.told == [("priorities", 8)] * (3 + 25)


def test_cells_are_weighed_with_every_version():
    replay = Replay()
    loop, events = make_loop(replay, sampling={"twin": "cells"})
    assert loop.run(lambda: False)
    assert replay.told == [("twin", {3: 0.75, 5: 0.0})] * events.count("publish")


def test_ages_are_of_what_the_policy_did():
    loop, events = make_loop(Replay(), log_every=1, utd=0.25)
    assert loop.run(lambda: False)
    line = next(event for event in events if isinstance(event, dict) and "sample_age" in event)
    acted = np.arange(7)  # of versions -1 to 6, the first is a demonstration
    assert line["sample_age"] == pytest.approx(1 - acted.mean())
    assert line["sample_age_p95"] == pytest.approx(np.percentile(1 - acted, 95))


def test_actors_never_run_further_ahead_than_the_slack():
    replay = Replay()
    loop, _ = make_loop(replay, env_steps=1000)
    for turns in (0, 7, 30):
        loop.run(lambda turns=turns: loop.progress.updates >= turns)
        assert loop.env_steps <= 10 + turns / 0.5 + 20


def test_a_stopped_stage_goes_on_where_it_was():
    replay = Replay()
    loop, _ = make_loop(replay)
    assert not loop.run(lambda: loop.progress.updates >= 8)
    assert loop.progress.updates == 8
    again, _ = make_loop(replay, progress=loop.progress)
    assert again.run(lambda: False)
    assert again.progress.updates == 25
    assert again.progress.warmup == 3


def test_silence_is_reported_with_its_deadline():
    loop, _ = make_loop(Replay(arrive=False), data_timeout_s=0.2)
    with pytest.raises(Unreachable, match=r"no transition came from twin within data_timeout_s=0\.2"):
        loop.run(lambda: False)


def test_bad_mixtures_are_refused():
    with pytest.raises(InputError, match="'demo'"):
        BatchSettings(online={"demo": 1}, demo={"demo": 1})
    with pytest.raises(InputError, match="at least one row"):
        BatchSettings(online={})
    with pytest.raises(InputError, match=r"sampling of 'human': batches draw from twin, demo"):
        BatchSettings(sampling={"human": "cells"})
    with pytest.raises(InputError, match=r"slack=5.*start_after=400"):
        LoopSettings(slack=5)


@dataclass
class TwoWorlds:
    """An arm that brings 5 transitions at every look, up to its allowance; a twin that brings all that it may."""

    received_now: dict = field(default_factory=lambda: {"demo": 100, "real": 300, "twin": 900})
    allowed: dict = field(default_factory=dict)
    sampled: list = field(default_factory=list)
    ratios: list = field(default_factory=list)

    def counts(self):
        return self.received_now

    def received(self):
        if self.allowed:
            assert set(self.allowed) == {"real", "twin"}
            self.received_now["real"] = min(self.received_now["real"] + 5, self.allowed["real"])
            self.received_now["twin"] = max(self.received_now["twin"], self.allowed["twin"])
        return self.received_now

    def sample(self, rng, sizes, *, out=None):
        self.sampled.append(dict(sizes))
        rows = sum(sizes.values())
        arrays = {name: tensor.numpy() for name, tensor in make_batch(rows, seed=int(rng.integers(1000))).items()}
        return replay_batch(version=np.arange(rows), **arrays)

    def allow(self, buffer, total):
        self.allowed[buffer] = total


def beside_loop(replay, **changes):
    updater = RlAgent(make_policy(), UpdateSettings(critic=CriticSettings(width=16)), seed=0)
    lines = []
    outlets = Outlets(publish=lambda: 1, checkpoint=lambda: None, record=lambda **line: lines.append(line))
    loop = OnlineLoop(
        updater,
        replay,
        LoopSettings(**(LOOP | {"beside": {"twin": 2.0}} | changes)),
        BatchSettings(online={"real": 3, "twin": 1}, demo={"demo": 4}),
        outlets,
        progress=Progress(base={"real": 300, "twin": 900}),
        seed=0,
    )
    return loop, lines


def test_a_buffer_beside_the_others_is_drawn_from_and_paces_nothing():
    replay = TwoWorlds()
    loop, lines = beside_loop(replay)
    assert loop.run(lambda: False)
    assert loop.progress.updates == 25, "utd 0.5 x (60 - 10) steps of the arm, whatever the twin brings"
    assert replay.sampled[-25:] == [{"real": 3, "twin": 1, "demo": 4}] * 25
    assert 60 <= loop.env_steps < 60 + 5 + LOOP["slack"]
    assert all(line["total"] == 60 for line in lines)
    assert replay.allowed["twin"] == 900 + 2 * (10 + 60), "two per step of the arm, from the start on"


def test_a_twin_stands_still_while_the_arm_does():
    replay = TwoWorlds()
    loop, _ = beside_loop(replay, data_timeout_s=0.2)
    replay.received = lambda: replay.received_now | {"twin": replay.allowed.get("twin", 900)}
    with pytest.raises(Unreachable, match="no transition came from real within"):
        loop.run(lambda: False)
    assert replay.allowed["twin"] == 900 + 2 * 10


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1001.0, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(InputError, match="beside of 'twin'"):
        LoopSettings(beside={"twin": ratio})
