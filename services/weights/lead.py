"""This module tells the weights service which learner leads, before anything else of it: Lease ─► Status, Lead."""

from typing import Protocol

import grpc

from protos import weights_pb2 as pb
from protos.errors import LeaseLost
from protos.weights_pb2_grpc import WeightsStub
from services.net import LOOPBACK, Credentials, describe, open_channel, unreachable

CONNECT_DEADLINE_S = 15.0


class LeaseLike(Protocol):
    """Types a learner's lease, `services.replay.Lease`."""

    number: int

    def above(self, number: int) -> int: ...


def lead(
    address: str,
    lease: LeaseLike,
    *,
    credentials: Credentials = LOOPBACK,
    deadline_s: float = CONNECT_DEADLINE_S,
) -> None:
    """Makes the service refuse versions under older leases than this one.

    A service that has seen higher numbers, since the replay was emptied, raises the lease's. Raises Unreachable,
    InputError when the credentials are refused, LeaseLost when another learner leads.
    """
    with open_channel(address, credentials) as channel:
        stub = WeightsStub(channel)  # type: ignore[no-untyped-call]
        try:
            seen = stub.Status(pb.WeightsStatusRequest(), timeout=deadline_s, wait_for_ready=True).lease
            number = lease.number if lease.number > seen else lease.above(seen)
            stub.Lead(pb.LeadRequest(lease=number, holder=str(lease)), timeout=deadline_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                raise LeaseLost(describe(error)) from error
            raise unreachable("weights", address, error, deadline_s) from error
