"""This package is the learner's end of the replay."""
