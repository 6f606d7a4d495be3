"""This package runs the whole method: its stages, the child processes and the progress display."""
