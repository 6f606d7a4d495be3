"""`twinrl demo` in processes of their own that share one import of what it needs: it costs more than what they do."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["twinrl.commands.demo"])


def demo(*arguments, timeout_s=60):
    """Runs the command from this folder to its end; returns the exit code and what it wrote."""
    with tempfile.NamedTemporaryFile() as output:
        process = _CONTEXT.Process(target=_command, args=(arguments, Path.cwd(), output.name))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode, Path(output.name).read_text()


def _command(arguments, folder, output):
    from twinrl import cli

    os.chdir(folder)
    with Path(output).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["twinrl", "demo", *arguments]
    cli.main()
