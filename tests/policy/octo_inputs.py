"""This module makes a small Octo in the official layout and inputs for it."""

from dataclasses import replace

import torch

from policy.octo.model import Goals, Octo, OctoInputs
from policy.octo.settings import OctoSettings

LAYOUT = OctoSettings(
    side_px=48,
    wrist_px=32,
    dim=32,
    layers=2,
    heads=2,
    mlp_dim=32,
    window=2,
    max_horizon=3,
    stem="small_stem",
    stem_features=(32, 32, 32, 32),
    stem_out=24,
    goal_images=True,
    language_tokens=3,
    repeat_language=True,
    language_dim=20,
)


def make_octo(**changes):
    torch.manual_seed(0)
    octo = Octo(replace(LAYOUT, **changes))
    with torch.no_grad():
        for name, parameter in octo.named_parameters():
            if name.startswith("positions"):
                parameter.normal_()
    return octo.eval()


def make_inputs(octo, n=2, steps=2, seed=0, **others):
    generator = torch.Generator().manual_seed(seed)
    settings = octo.settings

    def images(*shape):
        return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)

    given = {
        "side": images(n, steps, settings.side_px, settings.side_px),
        "wrist": images(n, steps, settings.wrist_px, settings.wrist_px),
        "language": torch.randn(n, settings.language_tokens, settings.language_dim, generator=generator),
        "goals": Goals(
            side=images(n, settings.side_px, settings.side_px),
            wrist=images(n, settings.wrist_px, settings.wrist_px),
        ),
    }
    return OctoInputs(**{**given, **others})


def readout(octo, inputs):
    return octo(
        inputs.side,
        inputs.wrist,
        inputs.language,
        inputs.timestep_mask,
        goals=inputs.goals,
        camera_mask=inputs.camera_mask,
        language_mask=inputs.language_mask,
    )
