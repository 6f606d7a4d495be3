"""Policy weights from the learner to everyone who acts, over gRPC.

    learner                       process of its own                    policy server of a node, robot PC
    WeightPublisher ──publish──► server, newest version on disk ──watch, pull──► WeightSubscriber.latest()
                                                     ◄── report what is in use ──┘

A version is a set of named parts (backbone, head); a part travels only to those who do not have its bytes yet. The
learner waits for a copy in memory, never for the network. A subscriber shows a version when every byte of it has
passed its checksums, and not before. One subscriber per node is the design: the policy server of a node acts for all of
its actors, so a version crosses the network once per node.

    python -m services.weights --listen 127.0.0.1:7070 --store weights/

Doors: `WeightPublisher`, `Bf16`, `WeightSubscriber`, `Weights`, `Limits`.
"""

from services.weights.bf16 import Bf16
from services.weights.publisher import WeightPublisher
from services.weights.subscriber import Weights, WeightSubscriber
from services.weights.tables import Limits

__all__ = ["Bf16", "Limits", "WeightPublisher", "WeightSubscriber", "Weights"]
