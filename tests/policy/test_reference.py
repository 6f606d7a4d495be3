"""These tests compare the readout and its gradients with Octo written plainly: convolutions over images with their
coordinate channels, keys and values of every token, attention as in the definition.
"""

import math

import pytest
import torch
from torch.nn import functional

from policy.octo.model import Octo
from policy.octo.settings import OctoSettings
from policy.octo.transformer import TokenGroup, allowed_keys


def plain_tokens(tokenizer, images, goal):
    """(n, P, P, 3) to (n, tokens, features)."""
    x = torch.cat([images, torch.zeros_like(images) if goal is None else goal], -1) if tokenizer.goal_images else images
    x = x.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    line = torch.linspace(-1.0, 1.0, x.shape[-1])
    across, down = line[None, :].expand(len(line), -1), line[:, None].expand(-1, len(line))
    x = torch.cat([x, torch.stack([across, down]).expand(len(x), -1, -1, -1)], dim=1)
    for layer in list(tokenizer.stem)[::2]:
        x = functional.gelu(functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding))
    return x.flatten(2).transpose(1, 2)


def plain_attention(block, x, allowed):
    n, length, dim = x.shape
    query, key, value = (
        part.view(n, length, block.heads, -1).permute(0, 2, 1, 3) for part in block.qkv(x).split(dim, dim=-1)
    )
    scores = (query @ key.mT / math.sqrt(dim // block.heads)).masked_fill(~allowed, -1e30)
    return block.out((scores.softmax(-1) @ value).permute(0, 2, 1, 3).reshape(n, length, dim))


def plain_readout(octo, side, wrist, language, padding=None, goals=(None, None)):
    """The readout (n, D) of windows (n, W, P, P, 3), every token computed in every layer."""
    n, steps = side.shape[:2]
    words = octo.projections["task_language"](language) + octo.positions["task_language"]
    groups, parts = [TokenGroup(kind="task", time=-1, tokens=words.shape[1])], [words]
    real = [torch.ones(n, words.shape[1], dtype=torch.bool)]
    for time in range(steps):
        for (name, images), goal in zip((("side", side), ("wrist", wrist)), goals, strict=True):
            tokens = plain_tokens(octo.tokenizers[name], images[:, time], goal)
            parts.append(octo.projections[name](tokens) + octo.positions[name][time])
            groups.append(TokenGroup(kind="obs", time=time, tokens=tokens.shape[1]))
            seen = torch.ones(n, dtype=torch.bool) if padding is None else ~padding[:, time]
            real.append(seen[:, None].expand(-1, tokens.shape[1]))
        readout = octo.positions["readout"][time]
        parts.append(readout.expand(n, -1, -1))
        groups.append(TokenGroup(kind="readout", time=time, tokens=len(readout)))
        real.append(torch.ones(n, len(readout), dtype=torch.bool))
    x, allowed = torch.cat(parts, 1), (allowed_keys(groups) & torch.cat(real, 1)[:, None])[:, None]
    for block in octo.transformer.blocks:
        x = x + plain_attention(block, block.attention_norm(x), allowed)
        x = x + block.mlp(block.mlp_norm(x))
    return octo.transformer.norm(x)[:, -octo.settings.readout_tokens :].mean(1)


LAYOUTS = {
    "tiny": OctoSettings(),
    "window": OctoSettings(side_px=32, wrist_px=16, layers=3, window=2, max_horizon=3, readout_tokens=2),
    "many readouts": OctoSettings(side_px=16, wrist_px=32, dim=32, heads=8, readout_tokens=5, language_tokens=3),
    "goals": OctoSettings(side_px=32, wrist_px=32, goal_images=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_readout_and_gradients_are_those_of_the_definition(layout):
    settings = LAYOUTS[layout]
    torch.manual_seed(0)
    octo, n = Octo(settings), 5
    side, wrist = (
        torch.randint(0, 256, (n, settings.window, px, px, 3), dtype=torch.uint8)
        for px in (settings.side_px, settings.wrist_px)
    )
    language = torch.randn(n, settings.language_tokens, settings.language_dim)
    padding = (torch.arange(n)[:, None] + torch.arange(settings.window)) % 3 == 0 if settings.window > 1 else None
    wanted = torch.randn(n, settings.dim)
    found = octo(side, wrist, language, None if padding is None else ~padding)
    plain = plain_readout(octo, side, wrist, language, padding)
    assert (found - plain).abs().max() < 1e-5
    names, parameters = zip(*octo.named_parameters(), strict=True)
    gradients, plain_gradients = (
        torch.autograd.grad((readout * wanted).sum(), parameters, materialize_grads=True) for readout in (found, plain)
    )
    for name, mine, its in zip(names, gradients, plain_gradients, strict=True):
        assert (mine - its).abs().max() < 1e-5 * (1.0 + its.abs().max()), name
