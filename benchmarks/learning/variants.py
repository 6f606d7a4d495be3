"""This module holds variants of the RL stage, each of which changes one thing of the demo's settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from learner.stage import RlSettings
from twinrl.run.context import RunContext

Variant = Literal["demo", "strong", "no_bc", "no_calql", "one_step", "backbone", "few_rows", "priority", "cells"]
Change = Callable[[RlSettings], RlSettings]


def _with_actor(rl: RlSettings, **changes: Any) -> RlSettings:
    """Returns the settings with changes of `update.actor`."""
    return replace(rl, update=replace(rl.update, actor=replace(rl.update.actor, **changes)))


def _no_bc(rl: RlSettings) -> RlSettings:
    """β = 0 all the time. η stays where it starts, since a loss without any weight would teach nothing."""
    _, eta = rl.update.actor.weights_start
    return _with_actor(rl, weights_start=(0.0, eta), weights_end=(0.0, eta))


def _few_rows(rl: RlSettings) -> RlSettings:
    """A quarter of the batch from every buffer."""
    batch = rl.batch
    online, demo = ({buffer: rows // 4 for buffer, rows in side.items()} for side in (batch.online, batch.demo))
    return replace(rl, batch=replace(batch, online=online, demo=demo))


def _backbone(rl: RlSettings) -> RlSettings:
    """The last block trains. Every row then costs two passes through Octo, so there are fewer of them."""
    return _few_rows(_with_actor(rl, backbone="last"))


VARIANTS: dict[Variant, tuple[str, Change]] = {
    "demo": ("as in the demo", lambda rl: rl),
    "strong": (
        "Q loss six times as strong: η from 0.3 to 0",
        lambda rl: _with_actor(rl, weights_start=(1.0, 0.3)),
    ),
    "no_bc": ("no behaviour cloning: β = 0, η constant", _no_bc),
    "no_calql": (
        "no Cal-QL: α = 0 in the warm-up",
        lambda rl: replace(rl, update=replace(rl.update, calql=replace(rl.update.calql, alpha=0.0))),
    ),
    "one_step": ("1-step returns", lambda rl: replace(rl, batch=replace(rl.batch, n_step=1))),
    "backbone": ("backbone not frozen: its last block trains, on a quarter of the rows", _backbone),
    "few_rows": ("a quarter of the rows per batch", _few_rows),
    "priority": (
        "twin transitions drawn by TD error",
        lambda rl: replace(rl, batch=replace(rl.batch, sampling={"twin": "priority"})),
    ),
    "cells": (
        "twin transitions drawn by cells that fail",
        lambda rl: replace(rl, batch=replace(rl.batch, sampling={"twin": "cells"})),
    ),
}


@dataclass(frozen=True, kw_only=True)
class VariantContext(RunContext):
    """A run whose RL learner gets other settings than the stage gives it; everything else stays."""

    change: Change

    def start(self, name: str, module: str, *command: str, settings: Any, **options: Any) -> None:
        """Starts a child as any run does, an RL learner with changed settings."""
        if isinstance(settings, RlSettings):
            settings = self.change(settings)
        super().start(name, module, *command, settings=settings, **options)
