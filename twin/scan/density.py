"""This module controls the density of splats: more where views still differ, none where they are not needed.

    every `every` steps:   mean |dL / d centre| large? ─┬─ small splat ─► clone: a second one, a step aside
                                                        └─ large splat ─► split: two halves of it along its longest axis
                           faint, huge on screen ───────► pruned
    every `reset_every`:   opacities lowered, so that only what the views need comes back

Source: Kerbl et al., "3D Gaussian Splatting", 2023, section 5.2, with absolute gradients (Ye et al., AbsGS, 2024)
and opacities that stay right when one becomes two (Rota Bulò et al., "Revising Densification", ECCV 2024). Those with
the largest gradients go first, as far as the budget reaches. The same code runs behind both rasterizers:
numba and gsplat give the gradients in the same unit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OFFSET, SHRINK = 0.6, 0.8
"""Halves of a split splat lie ±0.6 σ along its longest axis and have 0.8 σ there: 0.6² + 0.8² = 1."""
MET = math.exp(-0.5 * (OFFSET / SHRINK) ** 2)
"""Value that each half has in the middle between them."""
DENSEST = 0.995
LOWERED = 0.1
"""Largest opacity that a reset leaves."""


@dataclass(frozen=True, kw_only=True)
class DensitySettings:
    """Settings of the density control. Shares of the run are 0..1."""

    most: int = 20_000
    """Largest number of splats."""
    every: int = 20
    """Steps between two rounds; 0 leaves the number of splats as it is."""
    first: float = 0.1
    """Share of the steps before the first round."""
    last: float = 0.6
    """Share of the steps after which none follows, so that the last splats added can settle."""
    gradient: float = 8e-4
    """Mean absolute gradient of the loss by a splat's place, in half image widths, above which more are added."""
    large_px: float = 2.0
    """Largest standard deviation of a splat that is cloned, in a training image; larger ones are split."""
    growth: float = 0.3
    """Largest share of the splats that is added in a round."""
    faint: float = 0.02
    """Opacity below which a splat goes."""
    huge: float = 0.5
    """Largest standard deviation over the image's width at the nearest camera; larger splats go."""
    reset_every: int = 3000
    """Steps between two resets of the opacity; short runs have none."""


class Density:
    """Density control of one training run. Parameters are means, quaternions, log scales, logits, colour logits."""

    def __init__(self, settings: DensitySettings, steps: int, focal_px: float, width_px: int, eyes: Tensor) -> None:
        self._settings, self._steps = settings, steps
        self._focal_px, self._width_px, self._eyes = focal_px, width_px, eyes
        self._total, self._views = torch.zeros(0), torch.zeros(0)

    def seen(self, motion: Tensor, width_px: int) -> None:
        """Takes in one view's Σ |dL / d centre| (N, 2) [1/px], of an image of that width."""
        size = motion.norm(dim=1) * (width_px / 2)
        if len(self._total) != len(size):
            self._total, self._views = torch.zeros_like(size), torch.zeros_like(size)
        self._total += size
        self._views += size > 0

    def control(self, parameters: list[Tensor], optimizer: torch.optim.Optimizer, step: int) -> list[Tensor]:
        """Returns the parameters after the round due at `step`, if one is; the optimizer's state goes with them."""
        settings = self._settings
        inside = settings.first * self._steps <= step <= settings.last * self._steps
        if inside and settings.every and step % settings.every == 0 and step:
            parameters = self._round(parameters, optimizer)
            self._total = torch.zeros(0)
        if step and step % settings.reset_every == 0 and step < settings.last * self._steps:
            with torch.no_grad():
                parameters[3].clamp_(max=math.log(LOWERED / (1 - LOWERED)))
            _forget(optimizer, 3)
        return parameters

    @torch.no_grad()
    def _round(self, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
        settings, (means, _, scales, logits, _) = self._settings, parameters
        pixels = scales.exp().amax(1) * self._focal_px / torch.cdist(means, self._eyes).amin(1).clamp(min=1e-3)
        stays = (logits.sigmoid() >= settings.faint) & (pixels <= settings.huge * self._width_px)
        need = torch.where(stays, self._total / self._views.clamp(min=1), 0)
        room = min(settings.most - int(stays.sum()), int(settings.growth * len(means)))
        chosen = torch.argsort(need, descending=True)[: max(room, 0)]
        chosen = chosen[need[chosen] > settings.gradient]
        large = pixels[chosen] > settings.large_px
        aside = _halve(parameters, chosen[large])
        # Both together hide what one hid: 1 - (1 - α')² = α; at the middle, where each half of a split reaches to MET.
        seen = 1 - (1 - logits[chosen].sigmoid()).sqrt()
        logits[chosen] = torch.logit((seen / torch.where(large, MET, 1.0)).clamp(1e-4, DENSEST))
        new = [parameter[chosen].clone() for parameter in parameters]
        new[0][large] -= 2 * aside
        return _rebuild(parameters, optimizer, torch.where(stays)[0], new)


def _halve(parameters: list[Tensor], rows: Tensor) -> Tensor:
    """Makes splats the halves of themselves that lie ahead on their longest axis; returns how far ahead (n, 3)."""
    means, quaternions, scales, *_ = parameters
    longest = scales[rows].argmax(1)
    unit = torch.nn.functional.normalize(quaternions[rows], dim=1)
    step = torch.nn.functional.one_hot(longest, 3) * scales[rows].exp() * OFFSET
    w, u = unit[:, :1], unit[:, 1:]
    cross = torch.linalg.cross(u, step)
    aside = step + 2 * w * cross + 2 * torch.linalg.cross(u, cross)  # turned by the quaternion
    means[rows] += aside
    scales[rows, longest] += math.log(SHRINK)
    return aside


def _rebuild(
    parameters: list[Tensor], optimizer: torch.optim.Optimizer, keep: Tensor, new: list[Tensor]
) -> list[Tensor]:
    """Joins the kept rows and the new ones, whose moments in the optimizer start at zero."""
    result = []
    for old, added, group in zip(parameters, new, optimizer.param_groups, strict=True):
        parameter = torch.cat([old[keep], added]).requires_grad_(True)
        state = optimizer.state.pop(old, {})
        for name, value in state.items():
            if value.shape == old.shape:
                state[name] = torch.cat([value[keep], torch.zeros_like(added)])
        group["params"], optimizer.state[parameter] = [parameter], state
        result.append(parameter)
    return result


def _forget(optimizer: torch.optim.Optimizer, index: int) -> None:
    """Zeroes the moments of one parameter."""
    (parameter,) = optimizer.param_groups[index]["params"]
    for name, value in optimizer.state[parameter].items():
        if value.shape == parameter.shape:
            optimizer.state[parameter][name] = torch.zeros_like(value)
