"""Whoever may take over from the policy: a person, or a script that stands in for one.

    policy.act ──► action ──┐
                            ├──► environment.step        the executed action is stored, marked as human
    operator.override ──────┘ (when it answers)

Door: `actors.human.scripted.ScriptedOperator`, an `actors.interfaces.Operator`.
"""
