"""This room runs twin actors: many twins stepping on Ray, one policy server per node.

                 weights (gRPC)
                      │
                      ▼
    ┌──────────► PolicyServer (torch, batches whatever waits) ◄─────────┐
    │ observations                                                      │ observations
    ▼ actions, readouts                                                 ▼ actions, readouts
    TwinActor 0 (no torch: physics, splats, episode loop)   …   TwinActor N
         │ segments                                                  │ segments
         └───────────────────────► replay (buffer "twin") ◄──────────┘

    fleet            the policy server and the twin actors, watched (`watch`)
    evaluation       a policy from a spread of starts; success per cell on many workers (`probe`)
    demonstrations   the scripted expert's successful episodes
    expansion        twin demonstrations made of recorded ones

On each node a fork server starts the workers warm. The door exports the settings; the modules above load Ray, torch or
MuJoCo and are imported where they are used, so that each process holds only what it needs.
"""

from actors.sim.settings import (
    DemonstrationSettings,
    EvaluationSettings,
    ExpansionPlan,
    ExpansionRunSettings,
    FleetSettings,
    ProbeSettings,
    TwinWorld,
)

__all__ = [
    "DemonstrationSettings",
    "EvaluationSettings",
    "ExpansionPlan",
    "ExpansionRunSettings",
    "FleetSettings",
    "ProbeSettings",
    "TwinWorld",
]
