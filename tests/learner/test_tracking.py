"""Metrics reach real event files of TensorBoard and real offline runs of W&B; trackers may fail."""

import json
import logging
import struct
import threading
import time
from dataclasses import replace

import pytest

from learner.stage import RlSettings, TrackingSettings, tracking
from learner.stage.settings import described
from learner.stage.tracking import Feed, Tracking
from protos.errors import InputError
from services.replay import ReplaySettings
from services.telemetry import read_metrics

BLOCK = 1 << 15


@pytest.fixture
def settings(tmp_path):
    def make(*names, **changes):
        replay = ReplaySettings(urls=("redis://learner:secret@127.0.0.1:1",))
        return RlSettings(
            replay=replay, policy=tmp_path / "policy", tracking=TrackingSettings(to=names, offline=True, **changes)
        )

    return make


def write(settings, out):
    with Tracking(settings.tracking, out, stage="twin_rl", config=described(settings)) as log:
        log.write(step=10, total=100, td=0.5, bc=float("nan"))
        log.write(step=20, total=100, td=0.25, version=3)


def test_the_metrics_file_is_always_there(settings, tmp_path):
    seen = []
    with Tracking(settings().tracking, tmp_path, stage="sft", config={}, watch=seen.append) as log:
        log.write(step=1, total=2, bc=0.5)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (line["stage"], line["step"], line["total"], line["bc"]) == ("sft", 1, 2, 0.5)
    assert seen == [{"step": 1, "total": 2, "bc": 0.5}]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_tensorboard_reads_back_what_was_written(settings, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(settings("tensorboard"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("td")] == [(10, 0.5), (20, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("version")] == [(20, 3.0)]
    assert "bc" not in events.Tags()["scalars"]  # it was never a number


def test_wandb_writes_an_offline_run(settings, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    write(settings("wandb", project="pick"), tmp_path / "out")
    (run,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    (records,) = run.glob("run-*.wandb")
    deadline = time.monotonic() + 30
    while len(found := history(records)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # another process writes the file
    assert [(row["step"], row["td"]) for row in found] == [(10, 0.5), (20, 0.25)]
    assert found[1]["version"] == 3
    assert b"secret" not in records.read_bytes()


def history(path):
    """Reads the rows of an offline run's file, which is a log of LevelDB's kind behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no record begins in the last bytes of a block
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
    return rows


def test_wandb_without_a_login_asks_nothing_and_stops_nothing(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("wandb.login", lambda *, prompt: prompt)
    with (
        caplog.at_level(logging.WARNING),
        Tracking(replace(settings("wandb").tracking, offline=False), tmp_path, stage="rl", config={}) as log,
    ):
        log.write(step=1, total=2, td=0.5)
    assert "wandb is given up: not logged in" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


class Failing:
    def __init__(self, run=None):
        raise ConnectionError("api.wandb.ai: no route to host")


def test_a_tracker_that_cannot_be_reached_stops_nothing(settings, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(tracking._SINKS, "wandb", Failing)
    with caplog.at_level(logging.WARNING):
        write(settings("wandb"), tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]
    assert "wandb is given up: api.wandb.ai: no route to host" in caplog.text


def test_a_tracker_that_hangs_loses_lines_and_nothing_else(monkeypatch, caplog):
    monkeypatch.setattr(tracking, "WAITING_LINES", 3)
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_S", 0.1)
    inside, release = threading.Event(), threading.Event()

    class Hanging:
        def log(self, step, scalars):
            inside.set()
            release.wait(30)

        def close(self):
            pass

    feed = Feed("slow", Hanging)
    feed.write(0, {})
    assert inside.wait(30)
    for step in range(1, 10):
        feed.write(step, {})
    assert feed.dropped == 6
    with caplog.at_level(logging.WARNING):
        feed.close()
    release.set()
    assert "slow did not finish within 0.1 s" in caplog.text
    assert "too slow for 6 lines" in caplog.text


def test_a_package_that_is_not_there_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking._PACKAGES, "wandb", "wandb_not_installed")
    with pytest.raises(InputError, match="tracking='wandb': the package wandb_not_installed is not installed"):
        Tracking(settings("wandb").tracking, tmp_path, stage="sft", config={})
