"""Measurements that anyone can repeat: `twinrl bench replay|weights|faults|joins|policy|learner|learning|twin`.

Each module has a settings class, whose docstring is its help, and `run(settings)`, which returns the tables it measured
as markdown. What is compared takes turns in one run: two runs on one machine differ by more than two systems do.
"""
