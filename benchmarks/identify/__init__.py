"""This package measures how well the twin of a drawn lab is identified, and what that is worth on arrival.

run ─► the arm's demonstrations in a lab, in one process ─► twin.identify ─► found beside what the lab really has
effect ─► the method up to RL in the twin, with and without identification ─► both policies on the lab's arm
"""
