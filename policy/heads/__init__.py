"""Action heads: from a readout (and proprioception) to actions.

    consistency   one step from noise to an action; the only head that reinforcement learning trains
    diffusion     Octo's: DDPM over a chunk of actions, as in the released checkpoints
    continuous    Octo's regression heads, squared or absolute error; with mean or attention pooling

`pooling` is the attention pooling, `chunks` what the losses over chunks of actions share.
"""

from policy.heads.consistency import ConsistencyHead, noise_levels
from policy.heads.continuous import ContinuousHead
from policy.heads.diffusion import DiffusionHead

__all__ = ["ConsistencyHead", "ContinuousHead", "DiffusionHead", "noise_levels"]
