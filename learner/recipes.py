"""Settings that go together: TwinRL's demo, and what was released with ConRFT and with TwinRL.

A recipe is where a stage's settings start; what a person says beside it changes it.
"""

from dataclasses import replace
from typing import Literal, TypeVar

from learner.rl.update_settings import conrft_update, twinrl_update
from learner.settings import LoopSettings, RlSettings, SftSettings, TrainSettings, UpdateSettings
from learner.sft.train_settings import conrft_train, twinrl_train

Recipe = Literal["demo", "conrft", "twinrl"]
RECIPES: tuple[Recipe, ...] = ("demo", "conrft", "twinrl")
S = TypeVar("S", bound=SftSettings)
R = TypeVar("R", bound=RlSettings)
_GAMMA = 0.98
_TRAIN = {"demo": TrainSettings, "conrft": conrft_train, "twinrl": twinrl_train}
_UPDATE = {"demo": UpdateSettings, "conrft": conrft_update, "twinrl": twinrl_update}
_WARMUP = {"demo": LoopSettings().warmup_updates, "conrft": 2 * 20_000, "twinrl": 2 * 50_000}
"""Updates on demonstrations alone; there every second one trains the actor too."""


def with_train_recipe(settings: S, recipe: Recipe) -> S:
    """The settings with `train` of a recipe."""
    return replace(settings, train=_TRAIN[recipe]())


def with_rl_recipe(settings: R, recipe: Recipe) -> R:
    """The settings with `update`, the discount, the steps of a return and the warm-up of a recipe.

    Batches keep their size and their buffers: ConRFT's were of 256 rows, half of them demonstrations; TwinRL's of 64.
    """
    released = recipe != "demo"
    return replace(
        settings,
        update=_UPDATE[recipe](),
        gamma=_GAMMA if released else RlSettings.gamma,
        n_step=1 if released else RlSettings.n_step,
        loop=replace(settings.loop, warmup_updates=_WARMUP[recipe]),
    )
