"""This package is `twinrl reward`: the commands, and what they print."""

from twinrl.commands.reward.command import main

__all__ = ["main"]
