"""This package is `twinrl inspect`: the command, and the tables that it prints."""

from twinrl.commands.inspect.command import main

__all__ = ["main"]
