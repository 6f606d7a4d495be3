"""This package holds the RL update: losses, optimizers, RLlib, the online loop."""
