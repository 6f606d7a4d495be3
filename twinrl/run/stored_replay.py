"""The replay of a run, whether the run goes on or ended long ago.

A run's embedded server ends with it and leaves its data on disk. For reading they are served once more, by a server
that loads the log and is told to write none, so that a look at a run changes nothing in it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from protos.errors import InputError
from protos.settings import load_settings
from services.monitor import of_run, read_run
from services.replay import EmbeddedServer, ReplaySettings, ServerConfig, connect, reaching
from twinrl.run.settings import RunSettings


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run of the method."""
    return (folder / "settings.json").is_file() and ((folder / "replay").is_dir() or (folder / "settings").is_dir())


def run_settings(folder: Path) -> RunSettings:
    """Raises InputError for a folder that is no run, or one of another version."""
    return load_settings(RunSettings, folder / "settings.json", written=True)


def twin_of(folder: Path | None, task: str | None, domain: str) -> tuple[str, tuple[int, ...]]:
    """Task and latency [control steps] of the twin in which something of a folder is tried.

    A run's own, unless another task or another domain than "twin" is asked for; no latency stands for the domain's.
    """
    run = run_settings(folder) if folder is not None and is_run(folder) else RunSettings()
    return task or run.task, run.latency_steps if domain == "twin" else ()


@contextmanager
def replay_of(folder: Path) -> Iterator[ReplaySettings]:
    """Serves, or names, the replay of a run while the context lasts. Raises InputError where there is none."""
    run = run_settings(folder)
    prefix = f"twinrl-{run.name}"
    if run.replay:
        yield ReplaySettings(urls=run.replay, prefix=prefix, credentials=run.credentials)
    elif read_run(folder).running:
        live = of_run(folder).replay
        if live is None:
            raise InputError(f"{folder}: the run has not started its replay yet")
        yield live
    else:
        with _served(folder / "replay") as url:
            yield ReplaySettings(urls=(url,), prefix=prefix)


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    if not (directory / "appendonlydir").is_dir():
        raise InputError(f"{directory}: no replay was kept there")
    with tempfile.TemporaryDirectory(prefix="twinrl-") as short:  # a unix socket's path holds at most 107 bytes
        server = EmbeddedServer(directory, ServerConfig(socket=Path(short) / "replay.sock"))
        with server:
            settings = ReplaySettings(urls=(server.url,))
            with reaching(settings), closing(connect(settings)) as client:
                client.execute_command("CONFIG", "SET", "appendonly", "no")
            yield server.url
