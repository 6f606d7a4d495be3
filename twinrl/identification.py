"""This module identifies the twin of a run from the arm's demonstrations, and keeps what was found in its folder.

replay, demonstrations of the arm ─► twin.identify ─► identified.json in the run folder
"""

from pathlib import Path

from protos.errors import InputError
from protos.settings import load_settings, save_settings
from services.replay import ReplaySettings
from twin import tasks
from twin.identify import Identified, identify
from twin.scene import Scene
from twinrl.fidelity.measure import episodes_of_arm
from twinrl.run.settings import RunSettings

NAME = "identified.json"


def identify_run(folder: Path, replay: ReplaySettings, run: RunSettings) -> Identified:
    """Identifies the twin of a run. Raises InputError where no demonstration of the arm was kept."""
    episodes = episodes_of_arm(replay, run.schema, "demo")
    if not episodes:
        raise InputError(f"{folder}: no demonstration of the arm was kept")
    return identify(Scene.load(folder / "scene"), tasks.get(run.task), run.twin, episodes)


def keep(folder: Path, found: Identified) -> None:
    """Writes what was found into the run folder."""
    save_settings(found, folder / NAME)


def kept(folder: Path) -> Identified:
    """Reads what was found before."""
    return load_settings(Identified, folder / NAME, written=True)
