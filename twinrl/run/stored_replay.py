"""The replay of a run, whether the run goes on or ended long ago.

A run's embedded server ends with it and leaves its data on disk. A server can only read what it may also write, so for
a look at a run a copy is served, from the folder of temporary files: an archive may lie on a disk that is read-only.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from protos.errors import InputError
from protos.files import short_folder
from protos.folders import check_name, is_key
from protos.problems import doing
from protos.settings import load_settings
from services.monitor import of_run, read_run
from services.replay import EmbeddedServer, ReplaySettings, ServerConfig
from twinrl.run.room import check_room, size_of
from twinrl.run.settings import RunSettings

LOG = "appendonlydir"


def is_run(folder: Path) -> bool:
    """Returns whether a folder holds a run of the method."""
    return (folder / "settings.json").is_file() and ((folder / "replay").is_dir() or (folder / "settings").is_dir())


def run_settings(folder: Path) -> RunSettings:
    """Raises InputError for a folder that is no run, or one of another version."""
    found = load_settings(RunSettings, folder / "settings.json", written=True)
    if is_key(found.prefix):
        return found
    # such a name was once accepted and then refused by the replay, so nothing is kept under it
    name = folder.resolve().name
    check_name(f"{folder}: rename the folder; the run was never named, and", name)
    return replace(found, name=name)


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
    if run.replay:
        yield ReplaySettings(urls=run.replay, prefix=run.prefix, credentials=run.credentials)
    elif read_run(folder).running:
        live = of_run(folder).replay
        if live is None:
            raise InputError(f"{folder}: the run has not started its replay yet")
        yield live
    else:
        with _served(folder / "replay") as url:
            yield ReplaySettings(urls=(url,), prefix=run.prefix)


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    kept = directory / LOG
    if not kept.is_dir():
        raise InputError(f"{directory}: no replay was kept there")
    with ExitStack() as stack:
        socket = short_folder("twinrl-", len("/replay.sock"))
        stack.callback(shutil.rmtree, socket, ignore_errors=True)
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twinrl-replay-")))
        check_room(copy, size_of(kept.iterdir()), f"a copy of {kept} (TMPDIR names another place)")
        with doing(f"copying {kept} to {copy}"):
            shutil.copytree(kept, copy / LOG)
        yield stack.enter_context(EmbeddedServer(copy, ServerConfig(socket=socket / "replay.sock"))).url
