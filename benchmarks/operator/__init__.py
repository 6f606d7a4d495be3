"""This package measures the scripted operator in drawn labs: whether it succeeds, and whom it takes over.

lab, task ─► the stand-in's world in this process ─┬─► the operator alone, as a demonstrator
                                                   ├─► a policy alone          the same starts
                                                   └─► a policy with its help  the same starts
"""
