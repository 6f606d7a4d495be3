"""This package has labs: workspaces as they are, which the twin made of them knows only nearly.

    seed, task ─► draw_lab ─► Lab ─┬─ domain        dynamics, objects, light and noise of every episode
                                   ├─ calibration   where arm, tool and cameras stand, beside where they are thought
                                   ├─ drive         delays and fingers
                                   └─ surroundings  light, shadows, things at the table's edge, a person's arm
    Scene (as scanned) ─► Lab.workspace ─► Scene (as it is) ─► the stand-in's physics and cameras

A lab is the same in all its episodes but for what its domain varies. docs/labs.md has the distributions.
"""

from twin.labs.drawing import DISTRIBUTIONS, FIRST_TUNING_SEED, draw_lab, get
from twin.labs.lab import Calibration, Drive, Lab
from twin.labs.surroundings import Shadow, Surroundings, Thing

__all__ = [
    "DISTRIBUTIONS",
    "FIRST_TUNING_SEED",
    "Calibration",
    "Drive",
    "Lab",
    "Shadow",
    "Surroundings",
    "Thing",
    "draw_lab",
    "get",
]
