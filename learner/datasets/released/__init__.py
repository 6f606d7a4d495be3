"""This package reads the pickles that the authors of TwinRL released, without executing them."""
