"""This package runs a learning stage as a process: its data, checkpoints and metrics."""
