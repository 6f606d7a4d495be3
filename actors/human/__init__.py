"""This room holds the operators, who may take over from the policy: a person with a device, and a script in its place.

    policy.act ──► action ──┐
                            ├──► environment.step        the executed action is stored, marked as human
    operator.override ──────┘ (when it answers)

An operator is an `actors.interfaces.Operator`. The devices are in `actors.human.devices`.
"""

from actors.human.person import Person, PersonSettings
from actors.human.scripted import ObjectPoses, ScriptedOperator
from actors.human.watching import TakeoverSettings

__all__ = ["ObjectPoses", "Person", "PersonSettings", "ScriptedOperator", "TakeoverSettings"]
