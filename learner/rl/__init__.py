"""This package trains a policy by reinforcement learning, in plain torch or inside RLlib.

    replay reader ─► Draws ─► columns + noise ─► RlAgent: losses ─► gradients ─► optimizers ─► target critics
                       ▲                            (RllibUpdater: the same agent in RLlib's learners)
                       └── OnlineLoop: as many updates as the received transitions pay for, weights out

`learner.losses` has every loss as a pure function. `learner.rl.rllib` is imported where RLlib is asked for: it
brings Ray.
"""

from learner.rl.batches import WARMUP, BatchSettings, Draws, Phase, columns, complete
from learner.rl.loop import LoopSettings, OnlineLoop, Outlets, Progress, Updater
from learner.rl.settings import (
    ActorSettings,
    CalQlSettings,
    CriticSettings,
    RateSettings,
    UpdateSettings,
    conrft_update,
    twinrl_update,
)
from learner.rl.update import Metrics, RlAgent, Updated

__all__ = [
    "WARMUP",
    "ActorSettings",
    "BatchSettings",
    "CalQlSettings",
    "CriticSettings",
    "Draws",
    "LoopSettings",
    "Metrics",
    "OnlineLoop",
    "Outlets",
    "Phase",
    "Progress",
    "RateSettings",
    "RlAgent",
    "UpdateSettings",
    "Updated",
    "Updater",
    "columns",
    "complete",
    "conrft_update",
    "twinrl_update",
]
