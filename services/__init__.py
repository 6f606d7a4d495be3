"""What processes use to talk to each other; each room is the one home of its transport.

    replay      transitions from actors to the learner, through Redis or Valkey
    weights     policies from the learner to whoever acts, over gRPC
    guide       the next initial configuration to actors, outcomes back, over gRPC

No room knows of another, of the policy, or of the twin.
"""

import os

# gRPC reads it when it is imported. Its lines about failed handshakes come once per attempt, in the words of a TLS
# library; ours come from `services.net.handshake`.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
