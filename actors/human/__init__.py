"""This room holds the operators, who may take over from the policy: today a script that stands in for a person.

    policy.act ──► action ──┐
                            ├──► environment.step        the executed action is stored, marked as human
    operator.override ──────┘ (when it answers)

An operator is an `actors.interfaces.Operator`.
"""

from actors.human.scripted import ObjectPoses, ScriptedOperator
from actors.human.watching import TakeoverSettings

__all__ = ["ObjectPoses", "ScriptedOperator", "TakeoverSettings"]
