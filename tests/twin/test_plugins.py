"""Tests of tasks and robots that other packages bring: the example package, and packages that are broken."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from situations import situation

from protos.errors import InputError
from protos.schema import Schema
from twin import robots, tasks
from twin.env import trials
from twin.gym import GymTwin
from twin.randomize import DEMONSTRATION_DISTURBANCE, DOMAINS
from twin.scene import Scene
from twin.tasks.pick_and_place import PickAndPlace

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAME = "place_on_pedestal"


@pytest.fixture
def installed(examples_site, monkeypatch):
    """The example package is on the import path of this process."""
    monkeypatch.syspath_prepend(str(examples_site))
    yield
    sys.modules.pop("own_task", None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that puts a package with one module and one entry point on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, code: str, group: str, thing: str, value: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{thing} = {value}\n")

    return make


def test_the_page_shows_the_file():
    code = (EXAMPLES / "own_task.py").read_text()
    assert f"```python\n{code}```" in (ROOT / "docs" / "adding_a_task.md").read_text()


@pytest.mark.parametrize("region", ["A", "B"])
def test_its_expert_succeeds_in_spite_of_a_disturbance(installed, region):
    domain = replace(DOMAINS["twin"], disturbance=DEMONSTRATION_DISTURBANCE)
    assert trials(tasks.get(NAME), domain, region, 20, seed=0).successes >= 19


@pytest.mark.parametrize(
    ("cube", "closing", "done"),
    [
        ((-0.39, 0.0, 0.058), False, True),
        ((-0.39, 0.0, 0.058), True, False),
        ((-0.39, 0.0, 0.065), False, False),
        ((-0.39, 0.03, 0.018), False, False),
    ],
)
def test_it_is_done_when_the_cube_lies_there_released(installed, cube, closing, done):
    state = situation(bodies={"cube": cube, "pedestal": (-0.39, 0.0, 0.0)}, closing=closing)
    assert tasks.get(NAME).succeeded(state).tolist() == [done]


def test_gymnasium_runs_an_episode_of_it(installed, scene):
    env = GymTwin(scene, tasks.get(NAME), schema=Schema(side_px=16, wrist_px=16))
    observation, info = env.reset(seed=0, options={"region": "B"})
    assert info["configuration"].region == "B" and observation["side"].shape == (16, 16, 3)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(env.expert_action())
        total, ended = total + reward, terminated or truncated
    env.close()
    assert total == 1.0 and terminated


def test_every_process_knows_it_and_imports_it_only_when_asked(examples_site):
    code = (
        "import json, sys; from twin import tasks; names = tasks.names(); lazy = 'own_task' not in sys.modules; "
        f"print(json.dumps([names[-1], lazy, tasks.get({NAME!r}).name]))"
    )
    path = os.pathsep.join([str(examples_site), str(ROOT)])
    out = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=True, timeout=60
    )
    assert json.loads(out.stdout) == [NAME, True, NAME]


def test_a_task_registered_here_is_known_here(monkeypatch):
    monkeypatch.setattr(tasks._TASKS, "_registered", {})

    def mine():
        return PickAndPlace(name="mine")

    tasks.register(mine)
    tasks.register(mine)  # the same once more does no harm
    assert tasks.names()[-1] == "mine" and tasks.get("mine").name == "mine"
    with pytest.raises(InputError, match="'mine' exists already"):
        tasks.register(lambda: PickAndPlace(name="mine"))
    with pytest.raises(InputError, match="'pick_and_place' exists already"):
        tasks.register(PickAndPlace)


def test_an_unknown_name_is_told_the_choices_and_the_way_in():
    with pytest.raises(InputError, match=r"task 'no_such': choose one of pick_and_place, .*'twinrl\.tasks'"):
        tasks.get("no_such")


@pytest.mark.parametrize(
    ("code", "value", "said"),
    [
        ("import no_such_module", "broken_one:Task", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('two\\nlines')", "broken_one:Task", "ValueError: two lines"),
        ("", "broken_one:Task", "AttributeError: module 'broken_one' has no attribute 'Task'"),
        ("Task = dict", "broken_one:Task", "TypeError: it makes {}; a twin.tasks.Task of the name 'other' is needed"),
        (
            "from twin.tasks.pick_and_place import PickAndPlace as Task",
            "broken_one:Task",
            "TypeError: it makes 'pick_and_place'; a twin.tasks.Task of the name 'other' is needed",
        ),
    ],
)
def test_a_broken_package_is_named_in_one_line_and_the_others_go_on(package, code, value, said):
    package("broken_one", code, "twinrl.tasks", "other", value)
    assert tasks.names()[-1] == "other" and tasks.get("pick_and_place").name == "pick_and_place"
    with pytest.raises(InputError) as caught:
        tasks.get("other")
    assert str(caught.value) == f"task 'other' of the package broken_one (broken_one:Task) does not load: {said}"


def test_a_name_in_two_packages_is_refused(package):
    package("first_one", "", "twinrl.tasks", "other", "first_one:Task")
    package("second_one", "", "twinrl.tasks", "other", "second_one:Task")
    with pytest.raises(InputError, match="task 'other' is in several packages"):
        tasks.get("other")


def test_a_robot_of_a_package_stands_in_a_scene_with_its_own_gripper(package, tmp_path, scene):
    code = (
        "from dataclasses import replace\n"
        "from twin.robots import ROBOTIQ_2F85, UR5E\n"
        "ARM = replace(UR5E, name='my_arm', gripper=replace(ROBOTIQ_2F85, name='my_gripper', stroke_m=0.05))\n"
    )
    package("my_robots", code, "twinrl.robots", "my_arm", "my_robots:ARM")
    assert robots.names()[-1] == "my_arm"
    replace(scene, robot=robots.get("my_arm")).save(tmp_path / "scene")
    loaded = Scene.load(tmp_path / "scene").robot
    assert (loaded.name, loaded.gripper.name, loaded.gripper.stroke_m) == ("my_arm", "my_gripper", 0.05)


def test_a_thing_that_is_no_robot_is_refused(package):
    package("no_robots", "ARM = 1", "twinrl.robots", "my_arm", "no_robots:ARM")
    with pytest.raises(InputError, match=r"'my_arm' of the package no_robots .*TypeError: it is 1; "):
        robots.get("my_arm")
