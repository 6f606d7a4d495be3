"""A task from outside: the example of docs/adding_a_task.md."""

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
from twin import tasks
from twin.env import trials
from twin.gym import GymTwin
from twin.randomize import DEMONSTRATION_DISTURBANCE, DOMAINS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "place_on_pedestal.py"


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The module is on the path and named in the environment, as a user would do it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        patch.setenv(tasks.MODULES, "examples.place_on_pedestal")
        before = dict(tasks._TASKS)
        yield
        tasks._TASKS.clear()
        tasks._TASKS.update(before)
        sys.modules.pop("examples.place_on_pedestal", None)


def test_the_page_shows_the_file_and_it_is_short():
    code = EXAMPLE.read_text()
    assert f"```python\n{code}```" in (ROOT / "docs" / "adding_a_task.md").read_text()
    assert len(code.splitlines()) < 80


@pytest.mark.parametrize("region", ["A", "B"])
def test_its_expert_succeeds_though_shaken(region):
    domain = replace(DOMAINS["twin"], disturbance=DEMONSTRATION_DISTURBANCE)
    assert trials(tasks.get("place_on_pedestal"), domain, region, 20, seed=0).successes >= 19


@pytest.mark.parametrize(
    ("cube", "closing", "done"),
    [
        ((-0.39, 0.0, 0.058), False, True),
        ((-0.39, 0.0, 0.058), True, False),
        ((-0.39, 0.0, 0.065), False, False),
        ((-0.39, 0.03, 0.018), False, False),
    ],
)
def test_it_is_done_when_the_cube_lies_there_released(cube, closing, done):
    state = situation(bodies={"cube": cube, "pedestal": (-0.39, 0.0, 0.0)}, closing=closing)
    assert tasks.get("place_on_pedestal").succeeded(state).tolist() == [done]


def test_gymnasium_runs_an_episode_of_it(scene):
    env = GymTwin(scene, tasks.get("place_on_pedestal"), schema=Schema(side_px=16, wrist_px=16))
    observation, info = env.reset(seed=0, options={"region": "B"})
    assert info["configuration"].region == "B" and observation["side"].shape == (16, 16, 3)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(env.expert_action())
        total, ended = total + reward, terminated or truncated
    env.close()
    assert total == 1.0 and terminated


def test_a_process_started_with_the_environment_knows_it():
    code = "import json; from twin import tasks; print(json.dumps(tasks.names()))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, check=True, timeout=60
    )
    assert json.loads(out.stdout)[-1] == "place_on_pedestal"


def test_a_name_that_is_taken_is_refused():
    tasks.register(tasks._TASKS["pick_and_place"])  # the same once more is no harm
    with pytest.raises(InputError, match="'pick_and_place' exists already"):
        tasks.register(lambda: tasks.get("pick_and_place"))


def test_a_module_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv(tasks.MODULES, "examples.no_such_task")
    with pytest.raises(InputError, match=r"no module 'examples\.no_such_task'"):
        tasks.get("pick_and_place")
