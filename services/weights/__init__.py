"""This package carries policy weights from the learner to everyone who acts, over gRPC.

    learner                       process of its own                    policy server of a node, robot PC
    WeightPublisher ──publish──► server, newest version on disk ──watch, pull──► WeightSubscriber.latest()
                                                     ◄── report which version is in use ──┘

A version is a number and a set of named parts (backbone, head). A part is named by the sha256 of its table and bytes
(`protos.tensors`): the publisher computes it once, the server and every subscriber check it, and a part travels only to
those who lack it. The learner waits for a copy in memory, never for the network. A subscriber shows a version when
every byte of it has passed its checksums, and not before. A version crosses the network once per node: the policy
server of a node acts for all of its actors, and subscribers of one user on one host share what one of them pulled.

    wire         chunks and their checks, limits of tables, decoding
    lead         which learner leads, by the number of its lease
    publisher    copy ─► bytes ─► stream to the server
    server       store (newest version on disk), watchers, pulls
    subscriber   watch ─► pull ─► check ─► latest()
    shared       large parts in the host's shared memory, pulled once for all
    staleness    when weights are too old to act with

    python -m services.weights --listen 127.0.0.1:7070 --store weights/
"""

from protos.tensors import Bf16, WireDtype
from services.weights.lead import lead
from services.weights.publisher import WeightPublisher
from services.weights.staleness import StalenessBound
from services.weights.subscriber import Weights, WeightSubscriber
from services.weights.wire import Limits

__all__ = ["Bf16", "Limits", "StalenessBound", "WeightPublisher", "WeightSubscriber", "Weights", "WireDtype", "lead"]
