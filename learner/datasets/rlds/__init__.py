"""This package reads and writes RLDS."""
