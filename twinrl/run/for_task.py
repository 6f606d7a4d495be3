"""This module derives from a task the settings of its policy, its labels and its exploration."""

from dataclasses import replace

from learner.sft import LabelSettings
from policy.settings import PolicySettings
from twin.robots import ROBOTIQ_2F85
from twin.tasks import Task

ROTATION = (3, 4, 24)
"""Indices of the proprioception that a turn about the vertical changes while the tool points down."""


def labels_for(task: Task) -> LabelSettings:
    """The bodies, and when they are held between the fingers of the run's arm."""
    low, high = (width / ROBOTIQ_2F85.stroke_m for width in task.hold.width_m)
    return LabelSettings(
        manipulated=task.space.manipulated,
        target=task.fixed_bodies[0] if task.fixed_bodies else task.space.manipulated,
        held_opening=(low, high),
        grasp_z_m=task.hold.height_m,
        turn_rad=task.hold.turn_rad if task.action_scale[1] > 0 else 0.0,
    )


def policy_for(task: Task) -> PolicySettings:
    """The tiny policy, with what a tool that turns needs."""
    policy = PolicySettings(active_action_dims=task.active_action_dims, auxiliary_labels=labels_for(task).count)
    if task.action_scale[1] == 0:
        return policy
    return replace(policy, proprio_indices=tuple(sorted({*policy.proprio_indices, *ROTATION})))


def exploration(task: Task, wanted: float) -> float:
    """`wanted` noise on translations [action units], but no more than the task's precision: a block that is shaken by
    more than its socket's clearance teaches that inserting fails.
    """
    return min(wanted, task.precision_m / task.action_scale[0])
