"""Tests addresses, retries and the descriptions of failed calls."""

import grpc
import pytest

from protos.errors import InputError, Unreachable
from services.net import Backoff, describe, is_loopback, open_channel, parse_address, unreachable
from services.net.transport import explain, is_hopeless


@pytest.mark.parametrize(
    ("address", "parsed"),
    [("127.0.0.1:7070", ("127.0.0.1", 7070)), ("weights.lab:0", ("weights.lab", 0)), ("[::1]:80", ("::1", 80))],
)
def test_addresses(address, parsed):
    assert parse_address(address) == parsed


@pytest.mark.parametrize("address", ["", "7070", ":7070", "host", "host:", "host:-1", "host:65536", "host:http"])
def test_what_is_no_address_is_refused_before_anything_connects(address):
    with pytest.raises(InputError, match="write host:port"):
        open_channel(address)


def test_loopback_is_what_only_this_machine_reaches():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.10", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.7", "weights.lab", "localhost.lab", "")))


def test_backoff_grows_to_its_limit_and_starts_anew():
    backoff = Backoff()
    waits = [backoff.next_s() for _ in range(12)]
    limits = [min(0.1 * 2**n, 3.0) for n in range(12)]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    backoff.reset()
    assert backoff.next_s() <= 0.1


class Failed(grpc.RpcError):
    """Makes a call that ended with this status."""

    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


AT_CONNECT = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.7:7070: "


@pytest.mark.parametrize(
    ("quoted", "words", "hopeless"),
    [
        ("Failed to connect to remote host: Connection refused", "nothing listens there", False),
        ("Socket closed", "may want TLS", False),
        ("SSL_ERROR_SSL: WRONG_VERSION_NUMBER: Invalid", "speaks without TLS", True),
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK", "not signed by our", True),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "has expired", True),
        ("CERTIFICATE_VERIFY_FAILED: unsupported certificate purpose: OK", "is a client's, not a server's", True),
        ("Hostname Verification Check failed.", "other host names", True),
    ],
)
def test_why_there_is_no_connection(quoted, words, hopeless):
    error = Failed(grpc.StatusCode.UNAVAILABLE, AT_CONNECT + quoted)
    assert words in describe(error)
    assert is_hopeless(error.details()) == hopeless
    kind = InputError if hopeless else Unreachable
    raised = unreachable("weights", "10.0.0.7:7070", error, 5.0)
    assert type(raised) is kind
    assert str(raised).startswith("weights service at 10.0.0.7:7070: ")


@pytest.mark.parametrize("details", ["Socket closed", "Stream removed (Socket closed)", "", AT_CONNECT + "No route"])
def test_what_says_it_itself_is_not_explained(details):
    assert explain(details) is None
    assert not is_hopeless(details)


def test_a_failed_call_is_one_line():
    assert describe(Failed(grpc.StatusCode.UNAVAILABLE, "a\n b")) == "unavailable: a b"
    assert describe(Failed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")) == "deadline exceeded"
    assert describe(Failed(grpc.StatusCode.INTERNAL, None)) == "internal"
    refused = unreachable("guide", "h:1", Failed(grpc.StatusCode.UNAUTHENTICATED, "no token"), 5.0)
    assert isinstance(refused, InputError) and str(refused) == "guide service at h:1: no token"
