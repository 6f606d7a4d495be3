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
from twin.randomize import Domain, domain_named
from twinrl.identification import twin_of_run
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


def twin_of(folder: Path | None, task: str | None, domain: str | None) -> tuple[str, Domain]:
    """Task and domain of the twin in which something of a folder is tried: a run's own, unless others are named.

    What is not of a run is tried in the domain "twin". Raises InputError for a domain that does not exist.
    """
    run = run_settings(folder) if folder is not None and is_run(folder) else RunSettings(twin=domain_named("twin"))
    own = twin_of_run(folder, run)[1] if folder is not None and not domain else run.twin
    return task or run.task, domain_named(domain) if domain else own


def scene_of(folder: Path) -> Path:
    """Returns the scene folder, which may not exist, of the twin in which something of a folder is tried."""
    return twin_of_run(folder, run_settings(folder))[0] if is_run(folder) else folder / "scene"


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
