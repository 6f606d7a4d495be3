"""This module counts the arithmetic of an update from the sizes, as `benchmarks.policy.flops` does.

A layer whose weights train and whose input has a gradient costs three times its forward pass: forward, gradient of the
weights, gradient of the input. Whoever is a constant in a loss, or first in a network, costs less.
"""

from torch import nn

from benchmarks.policy.flops import block_flops, coordinate_flops, entrance_flops, linear_flops, octo_flops, tokens
from learner.rl import UpdateSettings
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import PolicySettings


def update_flops(policy: Policy, update: UpdateSettings, rows: int) -> int:
    """An online update of head and critics, whose critics see readouts."""
    head, encoder = linear_flops(policy.head), linear_flops(policy.proprio)
    critic, first = critic_flops(policy.settings, update)
    flops = head + 2 * (3 * head - _entrance(policy, update))  # the target's action; cloning and the actor's own action
    flops += 3 * encoder  # both observations; of its gradients only those of its weights
    flops += critic + (3 * critic - first)  # the target's value; TD error
    flops += 2 * critic  # value of the actor's action, in which the critics are constants
    passes = {"frozen": 0, "last": 2, "full": 3}[update.actor.backbone]  # through the stems, backward included
    octo = policy.settings.octo
    return rows * (flops + _backbone(octo, update)) + passes * coordinate_flops(octo)


def sft_flops(policy: Policy, rows: int) -> int:
    """A step of fine-tuning of the whole policy, auxiliary labels included."""
    octo = policy.settings.octo
    heads = 3 * linear_flops(policy.head) + 3 * linear_flops(policy.auxiliary) + 2 * linear_flops(policy.proprio)
    if policy.settings.head.network == "conrft":
        heads -= first_layer_flops(policy.consistency.time)
    return rows * (3 * _row_flops(octo) - entrance_flops(octo) + heads) + 2 * coordinate_flops(octo)


def critic_flops(policy: PolicySettings, update: UpdateSettings) -> tuple[int, int]:
    """One row through the ensemble, and through its first layer alone."""
    width, into = update.critic.width, policy.feature_dim + policy.action_dim
    first = 2 * update.critic.members * into * width
    return first + 2 * update.critic.members * (width * width + width), first


def _row_flops(octo: OctoSettings) -> int:
    return octo_flops(octo, 1) - coordinate_flops(octo)


def _backbone(octo: OctoSettings, update: UpdateSettings) -> int:
    """Octo on this observation, with as much gradient as trains, and on the next."""
    if update.actor.backbone == "frozen":
        return 0
    forward = _row_flops(octo)
    if update.actor.backbone == "full":
        return 2 * forward + 2 * forward - entrance_flops(octo)
    length = tokens(octo)
    before = update.actor.trained_blocks - 1
    trained = before * block_flops(octo, length, length) + block_flops(octo, length, octo.readout_tokens)
    return 2 * forward + 2 * trained


def _entrance(policy: Policy, update: UpdateSettings) -> int:
    """The head's layer that has a constant for input: the noise level's, or the first where readouts are cached."""
    if policy.settings.head.network == "conrft":
        return first_layer_flops(policy.consistency.time)
    constant = update.actor.backbone == "frozen" and policy.settings.proprio_encoder == "plain"
    return first_layer_flops(policy.consistency.net) if constant else 0


def first_layer_flops(module: nn.Module) -> int:
    """One row through the first linear layer."""
    layer = next(layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return 2 * layer.in_features * layer.out_features
