"""Tests the metrics log after a crash, and the Prometheus page."""

import json
import math
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos.errors import InputError
from services.telemetry import MetricsLog, Sample, read_metrics, start_metrics_server


def test_lines_come_back_with_time_stage_and_numbers(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path, stage="sft") as metrics:
        metrics.write(step=0, total=10, loss=2.5)
        metrics.write(step=10, total=10, loss=math.nan, rate=math.inf)
    first, last = read_metrics(path)
    assert (first["stage"], first["step"], first["total"], first["loss"]) == ("sft", 0, 10, 2.5)
    assert 0 < first["t"] <= last["t"]
    assert math.isnan(last["loss"])
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_every_line_is_readable_at_once(tmp_path):
    metrics = MetricsLog(tmp_path / "metrics.jsonl", stage="rl")
    for step in range(3):
        metrics.write(step=step, total=3)
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(step + 1))
    metrics.close()


@pytest.mark.parametrize("torn", [b'{"t": 1.0, "sta', b'{"t": 1.0, "stage": "rl", "step": 9, "total": 9}', b"\xff"])
def test_a_torn_last_line_is_left_out_and_cut_off_when_writing_goes_on(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, stage="rl") as metrics:
        metrics.write(step=1, total=9)
    with path.open("ab") as file:
        file.write(torn)
    assert [line["step"] for line in read_metrics(path)] == [1]
    with MetricsLog(path, stage="rl") as metrics:
        metrics.write(step=2, total=9)
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_damaged_line_in_the_middle_is_skipped_with_a_warning(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    assert [line["step"] for line in read_metrics(path)] == [1, 3]
    assert "line 2" in caplog.text


def test_a_missing_log_has_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_prometheus_reads_the_collected_numbers():
    server = start_metrics_server("127.0.0.1:0", lambda: {"steps": 12.0, "actor/steps per s": 3.5})
    try:
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as reply:
            page = reply.read().decode()
    finally:
        server.close()
    assert "\ntwinrl_steps 12.0\n" in page
    assert "\ntwinrl_actor_steps_per_s 3.5\n" in page


def test_counters_and_labels_follow_prometheus():
    readings = [
        Sample(name="transitions_total", value=7, labels={"buffer": "twin", "shard": "0"}),
        Sample(name="spool_bytes", value=1024, labels={"actor": "robot"}),
        Sample(name="transitions_total", value=9, labels={"buffer": "demo", "shard": "0"}),
    ]
    server = start_metrics_server("127.0.0.1:0", lambda: readings)
    try:
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as reply:
            page = reply.read().decode()
    finally:
        server.close()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert families["twinrl_transitions"].type == "counter"
    assert [(one.labels["buffer"], one.value) for one in families["twinrl_transitions"].samples] == [
        ("twin", 7),
        ("demo", 9),
    ]
    assert families["twinrl_spool_bytes"].type == "gauge"
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6


@pytest.mark.parametrize("address", ["0.0.0.0:0", "127.0.0.1", "127.0.0.1:99999"])
def test_the_page_stays_on_loopback(address):
    with pytest.raises(InputError):
        start_metrics_server(address, dict)
