"""What fine-tuning starts from: a new policy, one from a folder, or that one's backbone with a new head."""

from dataclasses import replace
from pathlib import Path

import torch

from learner.datasets import ActionScale
from learner.settings import SftSettings
from policy.checkpoint import load_manifest, load_policy, policy_settings
from policy.language import check_language
from policy.model import Policy, consistency_settings, on_backbone
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.settings import from_json, to_json

_SCALE = "action_scale"
"""In the manifest of a policy's folder."""


def starting_settings(settings: SftSettings) -> PolicySettings:
    """Of the policy that is fine-tuned. Raises InputError when it cannot be told its instruction on this machine."""
    folder = settings.initial_policy
    found = settings.policy if folder is None else policy_settings(folder)
    if settings.head == "consistency":
        found = consistency_settings(found)
    if settings.language == "stand-in":
        found = replace(found, language_folder="")
    try:
        check_language(found)
    except InputError as error:
        raise InputError(
            f"{error}. An imported policy has its language encoder when it is imported with a tokenizer (twinrl "
            "import-octo --tokenizer FOLDER); language='stand-in' (--language stand-in) tells instructions apart "
            "without it, but a pretrained backbone does not know its words"
        ) from error
    return found


def starting_policy(settings: SftSettings) -> Policy:
    """The policy before the first step; the same for the same seed."""
    wanted = starting_settings(settings)
    if settings.initial_policy is None:
        torch.manual_seed(settings.train.seed)
        return Policy(wanted)
    policy = load_policy(settings.initial_policy)
    if settings.head == "consistency":
        return on_backbone(policy, wanted, seed=settings.train.seed)
    policy.settings = wanted  # another language folder at most
    return policy


def starting_scale(settings: SftSettings) -> ActionScale | None:
    """What an action of 1 is to mean: as the settings say, or as the head has learned; None leaves it to the data."""
    if settings.action_scale is not None or settings.initial_policy is None or settings.head != "keep":
        return settings.action_scale
    return stored_scale(settings.initial_policy)


def stored_scale(folder: Path) -> ActionScale | None:
    """What an action of 1 means to the policy in a folder; None where that is not known."""
    found = load_manifest(folder).get(_SCALE)
    return None if found is None else from_json(ActionScale, found, _SCALE)


def scale_entry(scale: ActionScale | None) -> dict[str, object]:
    """The scale as an entry of a policy's manifest, for `save_policy`."""
    return {_SCALE: None if scale is None else to_json(scale)}
