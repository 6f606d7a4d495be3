"""Twin actors: many twins stepping on Ray, one policy server per node.

                 weights (gRPC)
                      │
                      ▼
    ┌──────────► PolicyServer (torch, batches whatever waits) ◄─────────┐
    │ observations                                                      │ observations
    ▼ actions, readouts                                                 ▼ actions, readouts
    TwinActor 0 (no torch: physics, splats, episode loop)   …   TwinActor N
         │ segments                                                  │ segments
         └───────────────────────► replay (buffer "twin") ◄──────────┘

Doors: `Fleet` (or `python -m actors.sim`); `evaluate` and `demonstrate` as processes of their own; `probe` for
success per cell on many workers. On each node a fork server starts the workers warm.
"""
