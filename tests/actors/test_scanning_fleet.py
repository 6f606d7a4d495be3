"""A real fleet that collects and scans: every result reaches the guide with its version, and either may be away."""

import subprocess
import sys

import pytest
from fleet_process import running_fleet, wait_until
from weights_process import WeightsProcess

from actors.sim import FleetSettings, TwinWorld
from protos.errors import InputError
from protos.files import last_line, read_lines
from protos.settings import save_settings
from services.guide import GuideSettings
from services.replay import EmbeddedServer, ReplaySettings, read_episodes, totals
from twin import tasks
from twin.scene import synthetic_scene

SPACE = tasks.get("pick_and_place").space
DEADLINE_S = 120.0


class GuideProcess(WeightsProcess):
    """Serves the guide; `start` after `kill` goes on with its state at the same address."""

    def start(self):
        self._folder.mkdir(exist_ok=True)
        settings = save_settings(GuideSettings(space=SPACE, rollouts=100), self._folder / "guide.json")
        kept = ("--state", str(self._folder / "state.json"), "--history", str(self._folder))
        command = [sys.executable, "-m", "services.guide", "--listen", self.address, "--settings", str(settings), *kept]
        self._process = subprocess.Popen(command)


@pytest.fixture
def replay(tmp_path):
    with EmbeddedServer(tmp_path / "valkey") as server:
        yield ReplaySettings(urls=(server.url,))


def test_twins_collect_and_scan_and_the_guide_may_be_killed(replay, tmp_path):
    synthetic_scene().save(tmp_path / "scene")
    world = TwinWorld(scene=tmp_path / "scene")
    changes = {"scanning": 1, "stage": "beside_arm"}
    with (
        GuideProcess(tmp_path / "guide") as guide,
        WeightsProcess(tmp_path / "weights") as weights,
        running_fleet(world, replay, weights, tmp_path, guide=guide.address, **changes) as fleet,
    ):

        def scans():
            return read_lines(tmp_path / "guide" / "scans.jsonl")

        def steps():
            return totals(replay)["twin"]

        def go_on(what):
            count, before = len(scans()), steps()
            wait_until(lambda: len(scans()) > count and steps() > before + 64, DEADLINE_S, what)

        wait_until(lambda: len(scans()) > 2, DEADLINE_S, "results of scans")
        assert {line["version"] for line in scans()} == {1}
        assert all(0 <= line["cell"] < SPACE.cells and line["steps"] > 0 for line in scans())
        wait_until(lambda: steps() > 64, DEADLINE_S, "transitions")
        guide.kill()
        before = steps()
        wait_until(lambda: steps() > before + 64, DEADLINE_S, "transitions while the guide is away")
        guide.start()
        go_on("both, with the guide back")
        rates = fleet.status.rates
        assert rates["scans"] > 2 and rates["scans_per_min"] > 0 and rates["transitions_per_s"] > 0
        wait_until(lambda: "scans" in last_line(tmp_path / "metrics.jsonl"), DEADLINE_S, "a line of metrics")
    line = last_line(tmp_path / "metrics.jsonl")
    assert line["stage"] == "beside_arm" and line["scans"] + line["step"] > 0
    names = {episode.name.split("/")[0] for episode in read_episodes(replay, world.schema, ("twin",))}
    assert names == {"twin-0"}, "scans are in no buffer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scanning": 3, "guide": "127.0.0.1:1"}, "scanning=3: 0 to all 2 actors"),
        ({"scanning": -1}, "scanning=-1"),
        ({"scanning": 1}, "name the guide service"),
    ],
)
def test_a_fleet_that_cannot_scan_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        FleetSettings(
            world=TwinWorld(scene=tmp_path),
            replay=ReplaySettings(urls=("unix:///x",)),
            weights="127.0.0.1:1",
            run_dir=tmp_path,
            **settings,
        )
