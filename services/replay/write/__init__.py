"""This package is the actors' end of the replay."""
