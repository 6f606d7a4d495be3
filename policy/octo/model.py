"""This module defines Octo: images and a sentence in, the readout embedding of the last time step out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from policy.octo.settings import OctoSettings
from policy.octo.tokenizers import ImageTokenizer
from policy.octo.transformer import Kind, TokenGroup, Transformer, additive, allowed_keys
from protos.errors import InputError

Camera = Literal["side", "wrist"]
CAMERAS: tuple[Camera, ...] = ("side", "wrist")
_TASK = "task_language"
_REPEATED = "obs_task_language"
_READOUT = "readout_action"


class Tokens(NamedTuple):
    """Holds one group of tokens, (n, k, D) for the task, (n, T, k, D) for groups of every time step."""

    tokens: Tensor
    mask: Tensor
    """Shape of `tokens` without its last axis; false where no token may attend to this one."""


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Holds images of the finished task, (n, P, P, 3) in 0..255. A missing one is black."""

    side: Tensor | None = None
    wrist: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CameraMask:
    """Marks the images that are real, (n, T) bool; a missing mask hides nothing."""

    side: Tensor | None = None
    wrist: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class OctoInputs:
    """Holds observations and task. A field that is None is left out of the sequence; one camera must be there."""

    side: Tensor | None = None
    """(n, T, P, P, 3) in 0..255; T may be shorter than the window."""
    wrist: Tensor | None = None
    language: Tensor | None = None
    """(n, language tokens, language_dim)."""
    goals: Goals = Goals()
    timestep_mask: Tensor | None = None
    """(n, T) bool, false where a time step is padding. It hides images only."""
    camera_mask: CameraMask = CameraMask()
    language_mask: Tensor | None = None
    """(n,) bool, false where a row has no instruction. The padding inside an instruction is never masked."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and time steps."""
        images = self.wrist if self.side is None else self.side
        if images is None:
            raise InputError("an observation without images: give `side`, `wrist` or both")
        return images.shape[0], images.shape[1]


class Octo(nn.Module):
    """Embeds the sequence [task_language | for each t: obs_side, obs_wrist, (obs_task_language), readout_action]."""

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
        self.projections = nn.ModuleDict({_TASK: nn.Linear(settings.language_dim, dim)})
        self.positions = nn.ParameterDict({_TASK: _positions(settings.language_tokens, dim)})
        for name in CAMERAS:
            tokenizer = self.tokenizers[name]
            self.projections[name] = nn.Linear(tokenizer.features, dim)
            self.positions[name] = _positions(horizon, tokenizer.tokens, dim)
        self.positions["readout"] = _positions(horizon, settings.readout_tokens, dim)
        self.transformer = Transformer(dim, settings.layers, settings.heads, settings.mlp_dim)
        self._rules: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        side: Tensor | None,
        wrist: Tensor | None,
        language: Tensor | None,
        timestep_mask: Tensor | None = None,
        *,
        goals: Goals | None = None,
        camera_mask: CameraMask | None = None,
        language_mask: Tensor | None = None,
    ) -> Tensor:
        """Returns the mean over the readout tokens of the last time step, (n, D); for the arguments see `OctoInputs`.

        The last layer computes these tokens alone; the result is that of `outputs`.
        """
        inputs = OctoInputs(
            side=side,
            wrist=wrist,
            language=language,
            timestep_mask=timestep_mask,
            goals=goals or Goals(),
            camera_mask=camera_mask or CameraMask(),
            language_mask=language_mask,
        )
        groups = self.groups(inputs)
        x = _sequence(groups)
        return self.transformer(x, self._additive(groups, inputs), rows=self.settings.readout_tokens).mean(1)

    def outputs(self, inputs: OctoInputs) -> dict[str, Tokens]:
        """Returns every group after the final norm, by its name in the sequence."""
        groups = self.groups(inputs)
        x = _sequence(groups)
        y = self.transformer(x, self._additive(groups, inputs), rows=x.shape[1])
        masks = self.masks(groups, inputs)
        return {name: Tokens(tokens, masks[name]) for name, tokens in _split(y, groups).items()}

    def tokenize(self, inputs: OctoInputs) -> dict[str, Tensor]:
        """Returns language and images as tokens of their own widths, before projection; missing ones are left out."""
        found = {} if inputs.language is None else {_TASK: inputs.language}
        for name in CAMERAS:
            images: Tensor | None = getattr(inputs, name)
            if images is not None:
                found[f"obs_{name}"] = self._image(name, images, getattr(inputs.goals, name))
        return found

    def groups(self, inputs: OctoInputs) -> dict[str, Tensor]:
        """Returns projected tokens with their positions in the order of the sequence, (n, k, D) or (n, T, k, D)."""
        n, steps = inputs.shape
        if steps > self.settings.max_horizon:
            raise InputError(
                f"{steps} time steps: this Octo takes at most octo.max_horizon={self.settings.max_horizon}"
            )
        tokenized = self.tokenize(inputs)
        groups: dict[str, Tensor] = {}
        if _TASK in tokenized:
            groups[_TASK] = self.projections[_TASK](tokenized[_TASK]) + self.positions[_TASK]
        for name in CAMERAS:
            if (key := f"obs_{name}") in tokenized:
                groups[key] = self.projections[name](tokenized[key]) + self.positions[name][:steps]
        if _TASK in groups and self.settings.repeat_language:
            groups[_REPEATED] = groups[_TASK][:, None].expand(-1, steps, -1, -1)
        groups[_READOUT] = self.positions["readout"][:steps].expand(n, -1, -1, -1)
        return groups

    def masks(self, groups: Mapping[str, Tensor], inputs: OctoInputs) -> dict[str, Tensor]:
        """Returns for each group the tokens that may be attended to: its shape without the last axis."""
        masks = {name: tokens.new_ones(tokens.shape[:-1], dtype=torch.bool) for name, tokens in groups.items()}
        for name in (_TASK, _REPEATED):
            if name in masks and inputs.language_mask is not None:
                masks[name] &= inputs.language_mask.view(-1, *[1] * (masks[name].dim() - 1))
        for camera in CAMERAS:
            for mask in (inputs.timestep_mask, getattr(inputs.camera_mask, camera)):
                if mask is not None and (name := f"obs_{camera}") in masks:
                    masks[name] &= mask[:, :, None]
        return masks

    def allowed(self, groups: Mapping[str, Tensor], inputs: OctoInputs) -> Tensor:
        """Returns (n, L, L) bool, [query, key]: rule, time and padding masks together."""
        masks = {name: mask[..., None] for name, mask in self.masks(groups, inputs).items()}
        return self._rule(groups)[0] & _sequence(masks)[:, None, :, 0]

    def _additive(self, groups: Mapping[str, Tensor], inputs: OctoInputs) -> Tensor:
        """Returns the mask for the attention: (L, L), or (n, 1, L, L) where something may be padded."""
        cameras = inputs.camera_mask
        if any(mask is not None for mask in (inputs.timestep_mask, inputs.language_mask, cameras.side, cameras.wrist)):
            return additive(self.allowed(groups, inputs), groups[_READOUT].dtype)[:, None]
        return self._rule(groups)[1]

    def _rule(self, groups: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns rule and time, (L, L), as bool and as additive mask, made once per layout."""
        readout = groups[_READOUT]
        key = (readout.device, readout.dtype, tuple((name, tokens.shape[1:-1]) for name, tokens in groups.items()))
        if key not in self._rules:
            with torch.inference_mode(False):  # what is made while acting serves training too
                rule = allowed_keys(_layout(groups), correct=self.settings.correct_attention).to(readout.device)
                self._rules[key] = rule, additive(rule, readout.dtype)
        return self._rules[key]

    def _image(self, name: Camera, images: Tensor, goal: Tensor | None) -> Tensor:
        """Returns the tokens (n, T, tokens, features) of images (n, T, P, P, 3) and a goal (n, P, P, 3)."""
        shape = images.shape[:2]
        if goal is not None:
            goal = goal[:, None].expand(-1, shape[1], -1, -1, -1).flatten(0, 1)
        return self.tokenizers[name](images.flatten(0, 1), goal).unflatten(0, shape)


def _layout(groups: Mapping[str, Tensor]) -> list[TokenGroup]:
    """Returns the groups as they follow one another, time step by time step."""
    layout = [
        TokenGroup(kind="task", time=-1, tokens=tokens.shape[1]) for name, tokens in groups.items() if name == _TASK
    ]
    for time in range(groups[_READOUT].shape[1]):
        for name, tokens in groups.items():
            if name != _TASK:
                kind: Kind = "readout" if name == _READOUT else "obs"
                layout.append(TokenGroup(kind=kind, time=time, tokens=tokens.shape[2]))
    return layout


def _sequence(groups: Mapping[str, Tensor]) -> Tensor:
    """Returns the groups as one sequence (n, L, D): the task, then all groups of one time step after the other."""
    steps = torch.cat([tokens for name, tokens in groups.items() if name != _TASK], dim=2).flatten(1, 2)
    return torch.cat([groups[_TASK], steps], dim=1) if _TASK in groups else steps


def _split(x: Tensor, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the groups of a sequence, the inverse of `_sequence`."""
    counts = {name: tokens.shape[2] for name, tokens in groups.items() if name != _TASK}
    prefix = groups[_TASK].shape[1] if _TASK in groups else 0
    steps = x[:, prefix:].unflatten(1, (-1, sum(counts.values())))
    found = dict(zip(counts, steps.split(list(counts.values()), dim=2), strict=True))
    return {_TASK: x[:, :prefix], **found} if prefix else found


def _positions(*shape: int) -> nn.Parameter:
    values = torch.empty(*shape)
    return nn.Parameter(values if values.is_meta else 0.02 * torch.randn(*shape))
