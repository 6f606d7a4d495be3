"""This package is `twinrl run` and `twinrl lab`: the whole method from one lab file, and how such a file is made.

twinrl lab init ─► asking ─► lab.toml ─► lab_file.read_lab ─► twinrl.run.run, the same as `twinrl demo`
"""

from twinrl.commands.lab.command import lab, run

__all__ = ["lab", "run"]
