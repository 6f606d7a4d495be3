"""These tests check that a host pulls a large part once, and that nobody depends on what the others do with it."""

import gc
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from service_process import until
from weight_samples import encode_part

from protos.errors import CorruptData
from services.weights import WeightSubscriber
from services.weights import shared as shared_module
from services.weights.shared import SharedParts

TIMEOUT_S = 60
ROWS = 1100
"""Of 1000 numbers: above the least size of a shared part, as float32."""


def tensors(value):
    return {
        "a": np.full((ROWS, 1000), value, np.float32),
        "bias": np.full(7, value, np.float32),
        "steps": np.arange(3, dtype=np.int64),
    }


@pytest.fixture
def memory(tmp_path):
    folder = tmp_path / "memory"
    folder.mkdir()
    return folder


@pytest.fixture
def follow(server):
    """Starts subscribers, one per name, with their folders."""
    opened = []

    def start(*folders):
        opened.extend(
            WeightSubscriber(server.address, name=f"node{number}", shared_memory=folder)
            for number, folder in enumerate(folders)
        )
        return opened[-len(folders) :]

    yield start
    for subscriber in opened:
        subscriber.close()


def files(memory):
    return sorted(path.name for folder in memory.iterdir() for path in folder.iterdir())


def same(weights, value):
    part = weights.parts["backbone"]
    assert (part["a"] == value).all()
    assert (part["bias"] == value).all()
    assert part["steps"].tolist() == [0, 1, 2]
    return True


def test_a_host_pulls_a_large_part_once(publisher, follow, memory):
    subscribers = follow(memory, memory, memory)
    publisher.publish({"backbone": tensors(1.5), "head": {"w": np.ones((4, 4), np.float32)}}, settings={})
    size = publisher.wait(TIMEOUT_S) and ROWS * 4000
    found = [subscriber.wait(1, TIMEOUT_S) for subscriber in subscribers]
    assert all(same(weights, 1.5) for weights in found)
    counts = [subscriber.stats() for subscriber in subscribers]
    assert sorted(count["pulled_bytes"] > size for count in counts) == [False, False, True]
    assert sorted(count["shared_bytes"] > size for count in counts) == [False, True, True]
    assert all((weights.parts["head"]["w"] == 1).all() for weights in found), "small parts are pulled by everyone"
    assert not any(weights.parts["backbone"]["a"].flags.writeable for weights in found)
    [folder] = memory.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_a_shared_part_is_what_one_alone_decodes(publisher, follow, memory):
    values = np.random.default_rng(0).normal(size=(2 * ROWS, 1000)).astype(np.float32)
    alone, *others = follow(None, memory, memory)
    publisher.publish({"head": {"w": values, "b": values[0, :3], "n": np.arange(5)}}, settings={})
    expected = alone.wait(1, TIMEOUT_S).parts["head"]
    for subscriber in others:
        part = subscriber.wait(1, TIMEOUT_S).parts["head"]
        assert {name: (array.dtype, array.tobytes()) for name, array in part.items()} == {
            name: (array.dtype, array.tobytes()) for name, array in expected.items()
        }


def test_versions_that_nobody_uses_leave_the_memory(publisher, follow, memory):
    subscribers = follow(memory, memory)
    held = []
    for value in (1.0, 2.0, 3.0, 4.0):
        version = publisher.publish({"backbone": tensors(value)}, settings={})
        latest = [subscriber.wait(version, TIMEOUT_S) for subscriber in subscribers]
        assert all(same(weights, value) for weights in latest)
        if value == 2.0:
            held = latest[:1]
    named = {weights.sha256["backbone"] for weights in (*held, *latest)}
    del latest
    gc.collect()
    until(lambda: set(files(memory)) == named, "the files of other versions are gone")
    assert same(held[0], 2.0), "what somebody holds stays as it was"
    for subscriber in subscribers:
        subscriber.close()
    assert set(files(memory)) == named, "they still hold them"


def test_the_last_one_removes_a_file(memory):
    table, data = encode_part("p", tensors(1.0))
    one, other = (SharedParts(memory, lambda: False) for _ in range(2))
    first = one.tensors(table, lambda progress: np.frombuffer(data, np.uint8))
    second = other.tensors(table, lambda progress: pytest.fail("it is there already"))
    assert files(memory) == [table.sha256]
    del first
    assert files(memory) == [table.sha256]
    assert (second["a"] == 1.0).all()
    kept = second["bias"][:2]
    del second
    assert files(memory) == [table.sha256], "a view of one tensor is a use"
    del kept
    assert files(memory) == []


def test_hosts_do_not_share(publisher, follow, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    subscribers = follow(*places)
    publisher.publish({"backbone": tensors(1.0)}, settings={})
    assert all(same(subscriber.wait(1, TIMEOUT_S), 1.0) for subscriber in subscribers)
    assert all(subscriber.stats()["shared_bytes"] == 0 for subscriber in subscribers)
    assert all(subscriber.stats()["pulled_bytes"] > ROWS * 4000 for subscriber in subscribers)


def name_of(memory):
    return SharedParts(memory, lambda: False).folder


def missing(memory):
    memory.rmdir()


def a_file_in_its_place(memory):
    name_of(memory).write_text("mine")


def a_link_elsewhere(memory):
    (memory / "elsewhere").mkdir(mode=0o700)
    name_of(memory).symlink_to(memory / "elsewhere")


def open_to_the_group(memory):
    name_of(memory).mkdir()
    name_of(memory).chmod(0o770)


def of_another_user(memory):
    name_of(memory).mkdir(mode=0o700)
    try:
        os.chown(name_of(memory), 12345, -1)
    except PermissionError:
        pytest.skip("only root gives folders away")


def read_only(memory):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    memory.chmod(0o500)


@pytest.mark.parametrize(
    "spoil", [missing, a_file_in_its_place, a_link_elsewhere, open_to_the_group, of_another_user, read_only]
)
def test_without_a_folder_of_its_own_everyone_pulls_alone(spoil, publisher, follow, memory, caplog):
    spoil(memory)
    caplog.set_level(logging.WARNING)
    subscribers = follow(memory, memory)
    for value in (1.0, 2.0):
        version = publisher.publish({"backbone": tensors(value)}, settings={})
        assert all(same(subscriber.wait(version, TIMEOUT_S), value) for subscriber in subscribers)
    assert all(subscriber.stats()["pulled_bytes"] > 2 * ROWS * 4000 for subscriber in subscribers)
    warnings = [record for record in caplog.records if "not shared on this host" in record.message]
    assert len(warnings) == 2, "once per subscriber"


def test_in_a_read_only_mount_everyone_pulls_alone(publisher, follow):
    """Nobody makes folders in /proc, root included."""
    [subscriber] = follow(Path("/proc"))
    publisher.publish({"backbone": tensors(1.0)}, settings={})
    assert same(subscriber.wait(1, TIMEOUT_S), 1.0)
    assert subscriber.stats()["pulled_bytes"] > ROWS * 4000


def test_in_a_full_memory_everyone_pulls_alone(publisher, follow, memory):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        subscribers = follow(memory, memory)
        publisher.publish({"backbone": tensors(1.0)}, settings={})
        assert all(same(subscriber.wait(1, TIMEOUT_S), 1.0) for subscriber in subscribers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(memory) == []


def a_link(path):
    path.symlink_to("/dev/zero")


def readable_by_others(path):
    path.write_bytes(bytes(ROWS * 5000))
    path.chmod(0o644)


def given_away(path):
    path.touch(mode=0o600)
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root gives files away")


@pytest.mark.parametrize("ending", ["", ".new"])
@pytest.mark.parametrize("plant", [a_link, readable_by_others, given_away])
def test_a_file_that_is_not_its_own_is_not_used(plant, ending, memory):
    table, data = encode_part("p", tensors(1.0))
    folder = name_of(memory)
    folder.mkdir(mode=0o700)
    plant(folder / (table.sha256 + ending))
    parts = SharedParts(memory, lambda: False)
    assert parts.tensors(table, lambda progress: np.frombuffer(data, np.uint8)) is None
    assert files(memory) == [table.sha256 + ending], "it is left alone"


def test_a_torn_file_is_made_anew(memory):
    table, data = encode_part("p", tensors(1.0))
    folder = name_of(memory)
    folder.mkdir(mode=0o700)
    (folder / table.sha256).touch(mode=0o600)
    os.truncate(folder / table.sha256, 100)
    parts = SharedParts(memory, lambda: False)
    assert parts.tensors(table, lambda progress: pytest.fail("not in this attempt")) is None
    found = parts.tensors(table, lambda progress: np.frombuffer(data, np.uint8))
    assert (found["a"] == 1.0).all()


def test_a_part_that_fails_its_checks_is_not_left_to_others(memory):
    table, data = encode_part("p", tensors(1.0))

    def damaged(progress):
        raise CorruptData("fails its sha256")

    parts = SharedParts(memory, lambda: False)
    with pytest.raises(CorruptData):
        parts.tensors(table, damaged)
    assert files(memory) == []
    assert (parts.tensors(table, lambda progress: np.frombuffer(data, np.uint8))["a"] == 1.0).all()


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_weights_shared import tensors
from weight_samples import encode_part
from services.weights.shared import SharedParts
table, data = encode_part("p", tensors(1.0))
def pull(progress):
    print("pulling", flush=True)
    time.sleep(1000)
SharedParts(Path(sys.argv[1]), lambda: False).tensors(table, pull)
"""


@pytest.fixture
def writer(memory):
    """A process that holds the lock of a part and does not come to its end."""
    code = WRITER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code, str(memory)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "pulling\n"
        yield process
        process.kill()


def test_the_file_of_a_writer_that_was_killed_is_filled_again(writer, memory):
    table, data = encode_part("p", tensors(1.0))
    assert files(memory) == [table.sha256 + ".new"]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = SharedParts(memory, lambda: False).tensors(table, lambda progress: np.frombuffer(data, np.uint8))
    assert (found["a"] == 1.0).all()
    assert files(memory) == [table.sha256]


def test_what_killed_writers_left_is_removed_with_the_next_part(writer, memory):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    (name_of(memory) / "notes.txt").touch()
    table, data = encode_part("p", tensors(2.0))
    found = SharedParts(memory, lambda: False).tensors(table, lambda progress: np.frombuffer(data, np.uint8))
    assert (found["a"] == 2.0).all()
    assert files(memory) == sorted([table.sha256, "notes.txt"])


def test_nobody_waits_for_a_writer_that_stands_still(writer, memory, monkeypatch):
    monkeypatch.setattr(shared_module, "STALLED_S", 0.2)
    table, _ = encode_part("p", tensors(1.0))
    parts = SharedParts(memory, lambda: False)
    assert parts.tensors(table, lambda progress: pytest.fail("another has its lock")) is None
    other, data = encode_part("q", tensors(2.0))
    found = parts.tensors(other, lambda progress: np.frombuffer(data, np.uint8))
    assert (found["a"] == 2.0).all(), "other parts are shared all the same"


def test_waiting_ends_with_the_subscriber(writer, memory):
    table, _ = encode_part("p", tensors(1.0))
    asked = iter([False, False, True])
    parts = SharedParts(memory, lambda: next(asked))
    assert parts.tensors(table, lambda progress: pytest.fail("another has its lock")) is None
