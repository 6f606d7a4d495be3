"""This module identifies the twin of a run from the arm's demonstrations, and keeps what was found in its folder.

    replay, demonstrations of the arm ─► twin.identify ─┬─► identified.json in the run folder
                                                        └─► identified/: the scene as the arm sees it

A run whose setting `identify` is on has that for its twin from then on.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from protos.errors import InputError
from protos.settings import load_settings, save_settings
from services.replay import ReplaySettings
from twin import tasks
from twin.randomize import Domain
from twin.scene import Scene
from twinrl.run.settings import RunSettings

if TYPE_CHECKING:
    from twin.identify import Identified

NAME, SCENE = "identified.json", "identified"


def identify_run(folder: Path, replay: ReplaySettings, run: RunSettings) -> "Identified":
    """Identifies the twin of a run. Raises InputError where no demonstration of the arm was kept."""
    from twin.identify import identify
    from twinrl.fidelity.measure import episodes_of_arm

    episodes = episodes_of_arm(replay, run.schema, "demo")
    if not episodes:
        raise InputError(f"{folder}: no demonstration of the arm was kept")
    return identify(Scene.load(folder / "scene"), tasks.get(run.task), run.twin, episodes)


def keep(folder: Path, found: "Identified") -> None:
    """Writes what was found into the run folder; of the same demonstrations it is the same."""
    found.scene(Scene.load(folder / "scene")).save(folder / SCENE)
    save_settings(found, folder / NAME)


def kept(folder: Path) -> "Identified":
    """Reads what was found before."""
    from twin.identify import Identified

    return load_settings(Identified, folder / NAME, written=True)


def twin_of_run(folder: Path, run: RunSettings) -> tuple[Path, Domain]:
    """Returns the scene folder and the domain of a run's twin: identified, where the run wants that."""
    return (folder / SCENE, kept(folder).domain) if run.identify else (folder / "scene", run.twin)
