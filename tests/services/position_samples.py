"""A reader that is put away and comes back, and what must be the same then."""

import json
from dataclasses import fields, replace

import numpy as np
from replay_samples import START, cut, make_segment, reader_of

from protos.episode import Segment
from services.replay import Batch, Position, ReplayReader, ReplaySettings


def stored(position: Position) -> Position:
    """Returns the position as it comes back from a file."""
    manifest = json.loads(json.dumps(position.manifest()))
    return Position.parse(manifest, {name: array.copy() for name, array in position.arrays.items()})


def come_back(reader: ReplayReader, settings: ReplaySettings, **options) -> ReplayReader:
    """Another reader, put where this one is."""
    later = reader_of(settings, resume=stored(reader.position()), **options)
    later.restore()
    return later


def interleaved(rng: np.random.Generator, count: int, *, slots: int = 3, **options) -> list[Segment]:
    """Segments of episodes of 1 to 40 steps in various cells, `slots` of them at a time, as an actor writes them."""
    waiting = []
    for i in range(count):
        whole = make_segment(rng, steps=int(rng.integers(1, 41)), episode=f"e{i}", **options)
        waiting.append(cut(replace(whole, configuration=replace(START, cell=i % 4))))
    order, running = [], waiting[:slots]
    del waiting[:slots]
    while running:
        at = int(rng.integers(len(running)))
        order.append(running[at].pop(0))
        if not running[at]:
            running.pop(at)
            running += [waiting.pop(0)] if waiting else []
    return order


def draws(reader: ReplayReader, size: int = 64) -> Batch:
    return reader.sample(np.random.default_rng(7), dict.fromkeys(reader.counts(), size))


def assert_same(left: Batch, right: Batch) -> None:
    """Every array equal, bit by bit."""
    for each in fields(Batch):
        a, b = getattr(left, each.name), getattr(right, each.name)
        assert (a is None) == (b is None), each.name
        if a is not None:
            assert a.tobytes() == b.tobytes(), each.name


def assert_level(left: ReplayReader, right: ReplayReader) -> None:
    """Both say the same, and draw the same."""
    assert left.counts() == right.counts()
    assert left.received() == right.received()
    assert left.actors() == right.actors()
    for buffer in left.counts():
        assert left.success_rates(buffer) == right.success_rates(buffer)
    if all(left.counts().values()):
        assert_same(draws(left), draws(right))
