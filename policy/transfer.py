"""Another head on the backbone of a policy: from a released Octo to one that reinforcement learning can train.

imported policy ─┬─ octo, language folder ──────────► kept
                 └─ its head, its dataset's units ──► dropped
consistency head, proprioception, auxiliary head ───► new, as in the presets "small" and "base"
"""

from dataclasses import replace

import torch

from policy.model import Policy
from policy.presets import with_octo
from policy.settings import PolicySettings
from protos.errors import InputError


def consistency_settings(settings: PolicySettings) -> PolicySettings:
    """Of a policy on the same backbone whose head is a consistency head. Raises InputError where it is one already.

    Such a policy predicts all seven numbers of the action as they are on the wire: there are no units to undo.
    """
    if settings.action_head == "consistency":
        raise InputError("the policy has a consistency head already, and a new one would know nothing: keep it")
    return replace(with_octo(settings.octo), language_folder=settings.language_folder)


def on_backbone(policy: Policy, settings: PolicySettings, *, seed: int) -> Policy:
    """A policy with the backbone of `policy` and everything else new, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = Policy(settings)
    new.octo.load_state_dict(policy.octo.state_dict())
    return new.to(policy.device)


def described(old: PolicySettings, new: PolicySettings) -> str:
    """What of a policy is kept and what is new, in one line."""
    octo, window = new.octo, new.octo.window
    language = "language encoder" if new.language_folder else "no language encoder (a stand-in)"
    dropped = f"{old.action_head} head" + ("" if old.action_units is None else " and its units")
    return (
        f"kept: backbone of {octo.layers} × {octo.dim}, window {window}; {language}. New: consistency head for "
        f"{new.action_dim} numbers, encoder of {window} × {len(new.proprio_indices)} numbers of proprioception, "
        f"auxiliary head. Dropped: {dropped}."
    )
