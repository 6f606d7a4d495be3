"""A person demonstrates at the keyboard of a terminal, with the real process, and goes on from another day."""

import json
import time
from contextlib import closing

import numpy as np
import pytest
from camera_server import cameras, scene
from console_session import STILL_M, Observer, Session
from standin import ideal_robot, until

from actors.real import ArmSettings, ConsoleLab, DemonstratePlan, RealSettings, UsbCameraSettings
from actors.real.table.checks import Views
from protos.files import read_lines
from protos.schema import Outcome, Schema
from services.replay import EmbeddedServer, ReplaySettings, read_episodes
from twin import tasks

pytest.importorskip("rtde_control")
pytest.importorskip("cv2")
TASK = tasks.get("pick_and_place")
SIDE, WRIST = scene(1), scene(2)
WAITS, AWAY = "the arm waits for its PERSON\n", "\x1b[A"


@pytest.fixture
def settings(tmp_path):
    """Provides settings with references of both cameras, a replay and the file of attempts."""
    Views(SIDE[..., ::-1], WRIST[..., ::-1]).save(tmp_path / "cameras")
    (tmp_path / "rp").mkdir()
    with (
        ideal_robot(fast=False) as robot,
        cameras(SIDE, WRIST) as served,
        EmbeddedServer(tmp_path / "rp") as server,
    ):
        side, wrist = (UsbCameraSettings(device=fake.url, max_age_s=5.0) for fake in served)
        yield RealSettings(
            arm=ArmSettings(host=robot.host, hold_after_s=1.0),
            lab=ConsoleLab(side=side, wrist=wrist, references=tmp_path / "cameras"),
            replay=ReplaySettings(urls=(server.url,)),
            spool=tmp_path / "spool",
        )


def demonstrating(settings, episodes, folder):
    plan = DemonstratePlan(episodes=episodes, failures=True, out=folder / "attempts.jsonl")
    settings = RealSettings(**(vars(settings) | {"demonstrate": plan}))
    return closing(Session("demonstrate", settings, folder, "--arm", "--device", "keyboard"))


def hold(person, key, seconds):
    """Holds a key as a terminal tells it: again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        person.type(key)
        time.sleep(0.03)


def attempt(person, observer):
    """Places the objects, moves the arm away and lets go; the arm stands then, whatever time passes."""
    person.wait_for("Place the objects")
    person.answer("go")
    person.wait_for(WAITS)
    since = time.monotonic()
    person.type("y")
    time.sleep(0.5)
    assert observer.moved_m(since) < STILL_M, "nobody acts"
    hold(person, AWAY, 0.6)
    person.wait_for("PERSON acts")
    until(lambda: observer.moved_m(since) > 0.03, "the arm moves")
    person.wait_for(WAITS)
    since = time.monotonic()
    time.sleep(0.5)
    assert observer.moved_m(since) < STILL_M, "nobody acts any more"


def test_demonstrations_by_keyboard_go_on_where_they_were_stopped(settings, tmp_path):
    earlier = [{"success": True}, {"success": False}]
    (tmp_path / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in earlier))
    with closing(Observer(settings.arm.host)) as observer, demonstrating(settings, 2, tmp_path) as person:
        person.wait_for("Keyboard: arrows")
        person.answer("go")
        attempt(person, observer)
        person.type("f\n")
        person.wait_for("failure.")
        attempt(person, observer)
        person.type("r\n")
        person.wait_for("rerecord.")
        attempt(person, observer)
        person.type("s\n")
        assert person.end() == 0, person.log
    cubes = [line for line in person.keyboard.screen.splitlines() if "cube: x" in line]
    x, y, *_ = TASK.space.sample(np.random.default_rng(settings.seed + 2), region="A").poses["cube"]
    assert f"cube: x = {x * 100:.1f} cm, y = {y * 100:.1f} cm" in cubes[0], "a start that did not come before"
    assert len(cubes) == 3 and cubes[1] == cubes[2], "the same start comes again"
    assert [line.get("operator") for line in read_lines(tmp_path / "attempts.jsonl")] == [
        None,
        None,
        "person",
        "person",
    ]
    (episode,) = read_episodes(settings.replay, Schema(), ("demo",))
    assert episode.outcome is Outcome.SUCCESS and episode.human.all()
    (missed,) = read_episodes(settings.replay, Schema(), ("real",))
    assert missed.outcome is Outcome.FAILURE and missed.human.all()
    moved = episode.action[:, :3]
    assert 3 <= np.sum(np.abs(moved[:, 0] - 0.5) < 0.01) <= 12 and np.abs(moved[:, 1:]).max() < 0.01
