"""This package holds the action heads: from a readout (and proprioception) to actions.

consistency   one step from noise to an action; the only head that reinforcement learning trains
chunks        Octo's own heads, which predict a chunk of actions: diffusion as in the released checkpoints, and
regression with mean or attention pooling
"""

from policy.heads.chunks import ContinuousHead, DiffusionHead, MapPooling, masked_mean
from policy.heads.consistency import ConsistencyHead, noise_levels

__all__ = ["ConsistencyHead", "ContinuousHead", "DiffusionHead", "MapPooling", "masked_mean", "noise_levels"]
