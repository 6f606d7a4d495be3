"""This package holds the services through which processes talk to each other, a room for each.

    monitor     status of runs and clusters, from all of the others
    replay      transitions from actors to the learner, through Redis or Valkey
    weights     policies from the learner to actors, over gRPC
    guide       the next initial configuration to actors, outcomes back, over gRPC
    telemetry   metrics on disk and as a Prometheus page
    net         addresses, encryption, credentials

A room imports only from those below it; replay, weights and guide do not import each other, the policy or the twin.
"""

import os

# gRPC reads it when it is imported. Its lines about failed handshakes come once per attempt, in the words of a TLS
# library; ours come from `services.net.transport`.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
