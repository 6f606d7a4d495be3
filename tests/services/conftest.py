"""Fixtures that the tests of the weights share: a service with a store of its own, and a publisher to it."""

import pytest
from service_process import ServiceProcess

from services.weights import WeightPublisher


@pytest.fixture
def server(tmp_path):
    """Provides a weights service; tests of other services have a server of their own."""
    with ServiceProcess("services.weights", tmp_path, "--store", str(tmp_path / "store")) as process:
        yield process


@pytest.fixture
def publisher(server):
    publisher = WeightPublisher(server.address)
    yield publisher
    publisher.close(flush_s=0.1)
