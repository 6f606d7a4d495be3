"""The arm is connected when everything else is there, and an evaluation ends at its last episode."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from test_loop import Policy, Script, World

from actors.real import DemonstratePlan, EvaluatePlan, RealSettings, TrainPlan, modes, robot
from protos.schema import Configuration
from protos.status import STATUS_VARIABLE, read_status
from services.replay import ReplaySettings


class ConnectedError(Exception):
    """The arm would be connected now."""


@pytest.fixture
def order(monkeypatch):
    """Provides the names of what was opened, in order; opening the arm raises `ConnectedError`."""
    opened = []

    def opens(name):
        def make(*_, **__):
            opened.append(name)
            images = lambda: (np.zeros((64, 64, 3)), np.zeros((64, 64, 3)), 0.0)  # noqa: E731
            return SimpleNamespace(close=lambda: None, incarnation="0", images=images, opening=lambda: 1.0)

        return make

    def arm(*_, **__):
        opened.append("arm")
        raise ConnectedError

    import services.guide

    monkeypatch.setattr(robot, "check_ready", lambda host, timeout_s, expected, model: None)
    monkeypatch.setattr(robot, "ArmClient", arm)
    monkeypatch.setattr(robot, "LabClient", opens("lab"))
    monkeypatch.setattr(robot, "RobotiqGripper", opens("gripper"))
    monkeypatch.setattr(modes, "ReplayWriter", opens("replay"))
    monkeypatch.setattr(modes, "WeightsPolicy", opens("policy"))
    monkeypatch.setattr(services.guide, "GuideClient", opens("guide"))
    return opened


@pytest.mark.parametrize(
    ("mode", "before"),
    [
        (modes.demonstrate, {"replay", "lab", "gripper"}),
        (modes.evaluate, {"policy", "lab", "gripper"}),
        (modes.train, {"replay", "policy", "guide", "lab", "gripper"}),
    ],
)
def test_the_arm_is_connected_last(mode, before, order, tmp_path):
    """Whatever takes long or fails does so before there is an arm to look after."""
    settings = RealSettings(
        armed=True,
        replay=ReplaySettings(urls=("unix:///nowhere",)),
        weights="127.0.0.1:1",
        guide="127.0.0.1:2",
        demonstrate=DemonstratePlan(),
        evaluate=EvaluatePlan(out=tmp_path / "out.jsonl"),
        train=TrainPlan(out=tmp_path / "out.jsonl"),
    )
    with pytest.raises(ConnectedError):
        mode(settings)
    assert set(order[:-1]) == before and order[-1] == "arm"


def test_the_status_of_an_evaluation_ends_at_its_last_episode(monkeypatch, tmp_path):
    """The status said "episode 4 of 3" once the last one was over."""
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "status.json"))
    world = World(1, [Script(2) for _ in range(3)])
    starts = [Configuration(region="A", poses={"cube": (0.0, 0.0, 0.0, 0.0)}) for _ in range(3)]
    policy = Policy()
    policy.close = lambda: None
    arm = SimpleNamespace(try_to_hold=lambda why: None)
    world.hold = lambda why: None
    opened = SimpleNamespace(environment=world, arm=arm, person=None, summary=lambda: "", settings=RealSettings())
    monkeypatch.setattr(modes, "Robot", lambda settings: nullcontext(opened))
    monkeypatch.setattr(modes, "_policy", lambda *_, **__: policy)
    monkeypatch.setattr(modes, "_starts", lambda *_: starts)
    modes.evaluate(RealSettings(evaluate=EvaluatePlan(out=tmp_path / "out.jsonl")))
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert read_status(tmp_path / "status.json").doing == "3 of 3 episodes"
