"""Tests that one learner at a time leads a run, and that one which lost its lease changes nothing any more."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import redis
from replay_samples import reader_of
from service_process import ServiceProcess, until

from protos import weights_pb2 as pb
from protos.errors import InputError, LeaseLost
from protos.weights_pb2_grpc import WeightsStub
from services.net import open_channel
from services.replay import EmbeddedServer, Keys, Lease, ReplaySettings, read_lease
from services.replay.lease import Holder
from services.weights import WeightPublisher, lead

PROGRAM = Path(__file__).with_name("learner_process.py")
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("replay")) as server:
        yield server


@pytest.fixture
def settings(server, request):
    return ReplaySettings(urls=(server.url,), prefix=f"run-{abs(hash(request.node.name))}")


@pytest.fixture
def client(server):
    with closing(redis.Redis.from_url(server.url, decode_responses=True)) as client:
        yield client


def lease_of(settings, name="second", lifetime_s=5.0):
    return Lease(settings, name=name, lifetime_s=lifetime_s)


def hold_elsewhere(client, settings, *, number, left_ms, **changes):
    """Lets a learner of another machine hold the lease, that says nothing more."""
    holder = replace(Holder.here("first"), **({"host": "rl2", "pid": 77, "system": "elsewhere"} | changes))
    client.set(f"{settings.prefix}:learner:number", number)
    client.set(f"{settings.prefix}:learner", json.dumps(asdict(holder)), px=left_ms)


def test_a_second_learner_is_refused_in_a_line_that_names_the_first(settings):
    with lease_of(settings, "first", lifetime_s=1.0) as first:
        assert first.take()
        assert first.number == 1
        with (
            lease_of(settings) as second,
            pytest.raises(InputError, match=rf"the learner of first \(pid {os.getpid()} on .*, since .*\) leads"),
        ):
            second.take()
        assert second.number == 0
        found = read_lease(settings)
        assert (found.number, found.holder.name) == (1, "first")
    assert read_lease(settings) is None
    with lease_of(settings) as second:
        assert second.take()
        assert second.number == 2


def test_a_holder_that_is_gone_from_this_machine_is_followed_at_once(settings, client):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(TIMEOUT_S)
    hold_elsewhere(client, settings, number=4, left_ms=3_600_000, pid=ended.pid, system=Holder.here("x").system)
    with lease_of(settings) as second:
        assert second.take()
        assert second.number == 5


def test_one_that_cannot_be_seen_is_followed_when_its_lease_has_run_out(settings, client):
    hold_elsewhere(client, settings, number=4, left_ms=1_000)
    asked = iter(range(100))
    with lease_of(settings) as second:
        assert not second.take(stop=lambda: next(asked) == 2)
        assert second.number == 0
        assert second.take()
        assert second.number == 5


def test_a_late_renewal_counts_while_no_other_has_a_newer_lease(settings, client):
    with lease_of(settings, "first", lifetime_s=600.0) as first:
        first.take()
        client.delete(f"{settings.prefix}:learner")
        first.confirm()
        assert read_lease(settings).holder.name == "first"
        client.flushall()  # a server that lost its disk learns the number again
        first.confirm()
        assert read_lease(settings).number == 1
        hold_elsewhere(client, settings, number=2, left_ms=60_000)
        with pytest.raises(LeaseLost, match=r"is over: the learner of first \(pid 77 on rl2"):
            first.confirm()
        with pytest.raises(LeaseLost):
            first.check()
    assert read_lease(settings).number == 2  # and it does not give back what is another's


def test_allowances_are_set_by_the_newest_lease_alone(settings, client):
    allowance, numbers = Keys(settings.prefix, "twin").allowance, {"lease": 3}
    with closing(reader_of(settings, lease=lambda: numbers["lease"])) as reader:
        reader.allow("twin", 10)
        reader.poll()
        assert client.get(allowance) == "10"
        assert client.get(f"{settings.prefix}:learner:number") == "3"
        hold_elsewhere(client, settings, number=4, left_ms=60_000)
        reader.allow("twin", 20)
        with pytest.raises(LeaseLost, match=r"pid 77 on rl2.* leads the run"):
            reader.poll()
        assert client.get(allowance) == "10"


def test_the_weights_service_takes_versions_of_the_newest_lease_alone(settings, tmp_path, client):
    service = ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store"))
    with service, lease_of(settings, "first", lifetime_s=600.0) as first:
        first.take()
        lead(service.address, first)
        with closing(WeightPublisher(service.address, lease=first.number)) as publisher:
            publisher.publish({"head": {}}, settings={})
            assert publisher.wait(TIMEOUT_S) == 1
            second = FixedLease(number=2)
            lead(service.address, second)
            service.kill()
            service.start()
            publisher.publish({"head": {}}, settings={})
            with pytest.raises(LeaseLost, match="number 1, is over: somebody leads now, with number 2"):
                publisher.wait(TIMEOUT_S)
            with pytest.raises(LeaseLost):
                publisher.publish({"head": {}}, settings={})
        with closing(WeightPublisher(service.address)) as unled, pytest.raises(LeaseLost):
            unled.publish({"head": {}}, settings={})
            unled.wait(TIMEOUT_S)
        with pytest.raises(LeaseLost, match="number 2"):
            lead(service.address, FixedLease(number=2, words="another"), deadline_s=TIMEOUT_S)
        lead(service.address, first)  # of an emptied replay: its number is raised
        assert first.number == 3
        assert read_lease(settings).number == 3


class FixedLease:
    """A lease that a service is told of, without a replay behind it; its number cannot be raised."""

    def __init__(self, *, number, words="somebody"):
        self.number, self._words = number, words

    def above(self, number):
        return self.number

    def __str__(self):
        return self._words


class Learner:
    """A learner in a process of its own."""

    def __init__(self, url, weights, name):
        command = [sys.executable, str(PROGRAM), url, weights, name, "2"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def number(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return int(line)


@contextmanager
def learner(url, weights, name):
    one = Learner(url, weights, name)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate(timeout=TIMEOUT_S)


def test_a_learner_that_stood_still_for_longer_than_its_lease_ends_in_one_line(server, tmp_path, client):
    allowance = Keys("twinrl", "twin").allowance
    with (
        ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store")) as service,
        learner(server.url, service.address, "stalled") as first,
    ):
        assert first.number() == 1
        until(lambda: client.get(allowance) in ("1000", "1001"), "the first learner's allowance")
        os.kill(first.process.pid, signal.SIGSTOP)
        with learner(server.url, service.address, "next") as second:
            assert second.number() == 2
            until(lambda: client.get(allowance) in ("2000", "2001"), "the second learner's allowance")
            os.kill(first.process.pid, signal.SIGCONT)
            _, told = first.process.communicate(timeout=TIMEOUT_S)
            assert first.process.returncode == 2
            last = told.splitlines()[-1]
            assert last.startswith("twinrl: the lease of this learner")
            assert f"the learner of next (pid {second.process.pid} on " in last
            assert "Traceback" not in told
            until(lambda: newest_of(service).lease == 2, "versions of the second learner")
            assert client.get(allowance) in ("2000", "2001")
            assert second.process.poll() is None
            second.process.kill()
            second.process.wait(TIMEOUT_S)
        with learner(server.url, service.address, "resumed") as third:  # its holder is known to be gone
            assert third.number() == 3


def newest_of(service):
    with open_channel(service.address) as channel:
        return WeightsStub(channel).Status(pb.WeightsStatusRequest(), timeout=TIMEOUT_S).newest
