"""These tests check the staleness bound at a real weights service whose pulls are stuck or which is away."""

import asyncio
from contextlib import closing

import numpy as np
import pytest
from service_process import ServiceProcess, until
from service_thread import ServiceThread

from protos.errors import InputError
from services.weights import Limits, StalenessBound, WeightPublisher, WeightSubscriber
from services.weights.server import WeightsService
from services.weights.store import VersionStore

TIMEOUT_S = 60.0


class Stuck(WeightsService):
    """Announces every version and delivers none while `stuck` is set."""

    stuck = False

    async def pull(self, request, context):
        while self.stuck:
            await asyncio.sleep(0.02)
        async for chunk in super().pull(request, context):
            yield chunk


def publish(publisher, value):
    version = publisher.publish({"head": {"w": np.full((2, 3), value, np.float32)}}, settings={})
    publisher.wait(TIMEOUT_S)
    return version


def test_versions_behind_hold_and_release(tmp_path):
    service = Stuck(VersionStore(tmp_path / "store", limits=Limits()), limits=Limits())
    bound = StalenessBound(versions=3)
    with (
        ServiceThread(service.handler()) as server,
        closing(WeightPublisher(server.address, connect_deadline_s=TIMEOUT_S)) as publisher,
        closing(WeightSubscriber(server.address, name="slow")) as follower,
    ):
        follower.wait(publish(publisher, 1.0), TIMEOUT_S)
        assert bound.reason_to_hold(follower) == ""
        service.stuck = True
        for value in (2.0, 3.0, 4.0, 5.0):
            newest = publish(publisher, value)
        until(lambda: follower.staleness()[0] == 4, "the newest announcement", TIMEOUT_S)
        assert bound.reason_to_hold(follower) == "weights: 4 versions behind (bound 3)"
        assert StalenessBound(versions=4).reason_to_hold(follower) == ""
        service.stuck = False
        assert follower.wait(newest, TIMEOUT_S).version == newest
        assert bound.reason_to_hold(follower) == ""


def test_silence_holds_and_a_connection_releases(tmp_path):
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store")) as server:
        bound = StalenessBound(silent_s=0.2)
        with (
            closing(WeightPublisher(server.address, connect_deadline_s=TIMEOUT_S)) as publisher,
            closing(WeightSubscriber(server.address, name="cut off")) as follower,
        ):
            follower.wait(publish(publisher, 1.0), TIMEOUT_S)
            assert bound.reason_to_hold(follower) == ""
            server.kill()
            until(lambda: bound.reason_to_hold(follower), "the silence is too long", TIMEOUT_S)
            assert bound.reason_to_hold(follower).startswith("weights: no connection for ")
            assert StalenessBound(silent_s=1e6).reason_to_hold(follower) == ""
            server.start()
            until(lambda: not bound.reason_to_hold(follower), "it is connected again", TIMEOUT_S)


@pytest.mark.parametrize(
    ("settings", "words"), [({"versions": -1}, "versions=-1"), ({"silent_s": 0.0}, "silent_s=0.0")]
)
def test_bounds_that_are_none_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        StalenessBound(**settings)
