"""This package measures the reward classifier on the stand-in: its proposals beside the simulator's truth.

InsideRobot, an operator who errs on purpose ─► episodes ─┬─► learner.reward ─► classifier, guard, threshold
                                                          └─► others, never seen ─► agreement with the truth
"""
