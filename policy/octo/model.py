"""Octo: pictures and a sentence in, the readout embedding of the last time step out."""

import torch
from torch import Tensor, nn

from policy.octo.attention import TokenGroup, additive, allowed_keys, picture_times, visible_keys
from policy.octo.settings import LANGUAGE_DIM, OctoSettings
from policy.octo.tokenizers import ImageTokenizer
from policy.octo.transformer import Transformer

CAMERAS = ("side", "wrist")


class Octo(nn.Module):
    """The sequence is [task_language | for each t: obs_side, obs_wrist, (obs_language), readout]."""

    allowed: Tensor
    times: Tensor

    def __init__(self, settings: OctoSettings) -> None:
        super().__init__()
        self.settings = settings
        dim, horizon = settings.dim, settings.max_horizon
        self.tokenizers = nn.ModuleDict(
            {
                "side": ImageTokenizer(settings, settings.side_px, coarse=False),
                "wrist": ImageTokenizer(settings, settings.wrist_px, coarse=True),
            }
        )
        self.projections = nn.ModuleDict({"task_language": nn.Linear(LANGUAGE_DIM, dim)})
        self.positions = nn.ParameterDict({"task_language": _positions(settings.language_tokens, dim)})
        for name in CAMERAS:
            tokenizer = self.tokenizers[name]
            self.projections[name] = nn.Linear(tokenizer.features, dim)
            self.positions[name] = _positions(horizon, tokenizer.tokens, dim)
        self.positions["readout"] = _positions(horizon, 1, dim)
        self.transformer = Transformer(dim, settings.layers, settings.heads, settings.mlp_dim)
        groups = self.groups(settings.window)
        self.register_buffer("allowed", allowed_keys(groups), persistent=False)
        self.register_buffer("times", picture_times(groups), persistent=False)

    def groups(self, steps: int) -> list[TokenGroup]:
        """The layout of a sequence of `steps` time steps."""
        language = self.settings.language_tokens
        groups = [TokenGroup(kind="task", time=-1, tokens=language)]
        for time in range(steps):
            for name in CAMERAS:
                groups.append(TokenGroup(kind="obs", time=time, tokens=self.tokenizers[name].tokens, picture=True))
            if self.settings.repeat_language:
                groups.append(TokenGroup(kind="obs", time=time, tokens=language))
            groups.append(TokenGroup(kind="readout", time=time, tokens=1))
        return groups

    def tokens(self, side: Tensor, wrist: Tensor, language: Tensor) -> Tensor:
        """The whole input sequence (n, L, D) of pictures (n, T, P, P, 3) and language (n, language tokens, 768)."""
        n, steps = side.shape[:2]
        task = self.projections["task_language"](language) + self.positions["task_language"]
        pictures = [self._picture("side", side), self._picture("wrist", wrist)]
        repeated = [task[:, None].expand(-1, steps, -1, -1)] if self.settings.repeat_language else []
        readout = self.positions["readout"][:steps].expand(n, -1, -1, -1)
        steps_first = torch.cat([*pictures, *repeated, readout], dim=2)  # (n, T, tokens of a step, D)
        return torch.cat([task, steps_first.flatten(1, 2)], dim=1)

    def mask(self, timestep_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Additive attention mask, (L, L) or, where time steps are padded, (n, 1, L, L)."""
        if timestep_mask is None:
            return additive(self.allowed, dtype)
        return additive(self.allowed & visible_keys(self.times, timestep_mask)[:, None, None, :], dtype)

    def forward(self, side: Tensor, wrist: Tensor, language: Tensor, timestep_mask: Tensor | None = None) -> Tensor:
        """(n, D): the readout of the last time step.

        `side`, `wrist` (n, window, P, P, 3) hold 0..255; `timestep_mask` (n, window) is false where a step is padding.
        """
        x = self.tokens(side, wrist, language)
        return self.transformer(x, self.mask(timestep_mask, x.dtype), rows=1)[:, 0]

    def _picture(self, name: str, image: Tensor) -> Tensor:
        """(n, T, P, P, 3) → (n, T, tokens, D)."""
        n, steps = image.shape[:2]
        tokens = self.projections[name](self.tokenizers[name](image.flatten(0, 1)))
        return tokens.unflatten(0, (n, steps)) + self.positions[name][:steps]


def _positions(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(*shape))
