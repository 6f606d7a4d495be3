"""This package measures the arm's program: how soon the arm stands in every fault, whether it starts under load, and
what a control step costs.

stand-in with physics, in real time ◄── proxies (network, lab) ◄── python -m actors.real ──► replay
▲ observer: the tool's speed and place, 100 times a second, whatever becomes of the others
"""
