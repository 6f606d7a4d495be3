"""Named policies.

tiny    0.4 M parameters, 64-pixel cameras, one language token: trains on a CPU in seconds
small   octo-small-1.5's transformer as ConRFT uses it: 256- and 128-pixel cameras, 16 language tokens, window 2,
        the released consistency head, proprioception of the window encoded
base    the same with octo-base-1.5's transformer
"""

from policy.octo.settings import OctoSettings
from policy.settings import HeadSettings, PolicySettings
from protos.errors import InputError
from protos.schema import ACTION_DIM, PROPRIO_DIM


def _octo(dim: int, heads: int) -> OctoSettings:
    """The layout of the released 1.5 checkpoints."""
    return OctoSettings(
        side_px=256,
        wrist_px=128,
        dim=dim,
        layers=12,
        heads=heads,
        mlp_dim=4 * dim,
        window=2,
        max_horizon=10,
        stem="small_stem",
        goal_images=True,
        language_tokens=16,
        repeat_language=True,
    )


def with_octo(octo: OctoSettings) -> PolicySettings:
    """Everything of "small" and "base" but the transformer."""
    return PolicySettings(
        octo=octo,
        head=HeadSettings(network="conrft"),
        active_action_dims=tuple(range(ACTION_DIM)),
        proprio_indices=tuple(range(PROPRIO_DIM)),
        proprio_encoder="mlp",
    )


_PRESETS = {"tiny": PolicySettings(), "small": with_octo(_octo(384, 6)), "base": with_octo(_octo(768, 12))}


def preset(name: str) -> PolicySettings:
    """The settings called `name`."""
    if name not in _PRESETS:
        raise InputError(f"policy preset {name!r}: choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]
