"""This module tests that a seed is a lab, the same everywhere, and that each of its parts is there to be met."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protos.errors import InputError
from protos.schema import Schema
from protos.settings import from_json, to_json
from twin import labs, tasks
from twin.labs import DISTRIBUTIONS, Calibration, Drive, Lab, Shadow, Surroundings, Thing, draw_lab
from twin.labs.drawing import Logarithmic, Normal, Uniform
from twin.randomize import DOMAINS, Domain
from twin.robots import UR5E
from twin.surfaces import Light
from twin.world import ArmWorld

SEVEN = {"base_shift_m": (0.00265, 0.00457, -0.00084), "others": (0.14006, 0.66158, 3)}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "labs.md"
CALM = Lab(name="calm", domain=Domain(latency_steps=(0,)))
PX = Schema(side_px=64, wrist_px=64)


def test_a_seed_is_a_lab_and_another_is_another(task):
    assert draw_lab(7, task) == draw_lab(7, task) != draw_lab(8, task)


def test_the_lab_of_a_seed_is_the_same_on_every_machine(task):
    """Numbers of lab 7 as they were first drawn: a result names its labs by their seeds."""
    lab = draw_lab(7, task)
    assert lab.calibration.base_shift_m == SEVEN["base_shift_m"]
    assert (lab.drive.servo_delay_s, lab.domain.friction[0], len(lab.surroundings.things)) == SEVEN["others"]


def test_tasks_share_a_lab_but_for_their_objects():
    one, other = (draw_lab(3, tasks.get(name)) for name in ("pick_and_place", "insert_hexagon_block"))
    assert one.domain.object_size != other.domain.object_size
    assert replace(one, domain=replace(one.domain, object_size=other.domain.object_size)) == other


def test_draws_keep_to_their_distributions(task):
    drawn = [draw_lab(seed, task) for seed in range(1000, 1200)]
    for name, value in (
        ("servo_delay_s", lambda lab: lab.drive.servo_delay_s),
        ("gain", lambda lab: lab.domain.gain[0]),
    ):
        values, spread = [value(lab) for lab in drawn], DISTRIBUTIONS[name]
        assert spread.low <= min(values) < spread.low + 0.05 * (spread.high - spread.low)
        assert spread.high >= max(values) > spread.high - 0.05 * (spread.high - spread.low)
    shifts = np.array([lab.calibration.base_shift_m[0] for lab in drawn])
    assert np.std(shifts) == pytest.approx(DISTRIBUTIONS["base_x_m"].deviation, rel=0.2)
    assert np.abs(shifts).max() <= 2.5 * DISTRIBUTIONS["base_x_m"].deviation


def test_labs_are_named_by_seed_or_domain(task):
    assert labs.get("12", task) == draw_lab(12, task)
    assert labs.get("far", task).domain == DOMAINS["far"]
    with pytest.raises(InputError, match="choose one of twin, standin, far"):
        labs.get("moon", task)
    with pytest.raises(InputError, match="a seed from 0"):
        labs.get(str(2**31), task)


def test_a_lab_travels_as_settings(task):
    lab = draw_lab(5, task)
    assert from_json(Lab, json.loads(json.dumps(to_json(lab)))) == lab


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Calibration, {"base_shift_m": (0.2, 0.0, 0.0)}),
        (Calibration, {"side_turn_rad": (0.0, float("nan"))}),
        (Drive, {"servo_delay_s": -0.1}),
        (Drive, {"gripper_speed": 0.0}),
        (Surroundings, {"blur": 0.2}),
    ],
)
def test_what_no_lab_is_like_is_refused(kind, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        kind(**wrong)


def test_the_documentation_has_every_distribution():
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE))
    assert rows == {name: described(each) for name, each in DISTRIBUTIONS.items()}


def described(spread):
    match spread:
        case Normal(deviation, mean):
            return f"normal, {mean:g} ± {deviation:g}"
        case Uniform(low, high):
            return f"even, {low:g} to {high:g}"
        case Logarithmic(low, high):
            return f"log-even, {low:g} to {high:g}"


def world(scene, task, lab):
    return ArmWorld(scene, task, lab, schema=PX)


def test_the_presets_are_the_scene_as_scanned(scene):
    as_is = Lab().workspace(scene)
    assert as_is.robot == scene.robot and as_is.side == scene.side and as_is.wrist == scene.wrist
    np.testing.assert_array_equal(as_is.static.colours, scene.static.colours)


def test_an_arm_stands_where_its_calibration_does_not_say(scene, task):
    calibration = Calibration(
        base_shift_m=(0.004, -0.003, 0.002), base_turn_rad=(0.0, 0.0, 0.01), tool_shift_m=(0, 0, 0.003)
    )
    true, off = world(scene, task, CALM), world(scene, task, replace(CALM, calibration=calibration))
    q = true.joints
    for each in (true, off):
        each.set_joint_targets(q)
        each.advance(0.5)
    moved = off.tcp_pose[:3] - true.tcp_pose[:3]
    x, y = true.tcp_pose[:2]
    np.testing.assert_allclose(moved, [0.004 - 0.01 * y, -0.003 + 0.01 * x, 0.002 - 0.003], atol=3e-4)


def test_objects_are_seen_beside_the_fingers(scene, task, configurations):
    calibration = Calibration(base_shift_m=(0.004, -0.003, 0.001), base_turn_rad=(0.0, 0.0, 0.01))
    off = world(scene, task, replace(CALM, calibration=calibration))
    start = configurations("A", 1)[0]
    off.place(start)
    x, y, z, yaw = off.object_pose("cube")
    X, Y, Z, Yaw = start.poses["cube"]
    np.testing.assert_allclose([x, y, z], [X - 0.004 + 0.01 * Y, Y + 0.003 - 0.01 * X, Z - 0.001], atol=2e-4)
    assert yaw == pytest.approx(Yaw - 0.01, abs=1e-4)


def test_fingers_are_as_fast_and_as_strong_as_the_lab_says(scene, task):
    slow = world(scene, task, replace(CALM, drive=Drive(gripper_speed=1.0)))
    slow.set_gripper(0.0)
    slow.advance(0.3)
    assert slow.opening == pytest.approx(0.7, abs=0.08)
    strong = replace(CALM, drive=Drive(grip_force=1.25)).workspace(scene).robot
    assert strong.gripper.force_n == pytest.approx(1.25 * UR5E.gripper.force_n)


def test_images_are_as_late_as_the_lab_says(scene, task):
    prompt, late = world(scene, task, CALM), world(scene, task, replace(CALM, drive=Drive(camera_delay_s=0.1)))
    images = {prompt: [], late: []}
    for each, seen in images.items():
        each.set_joint_targets(each.joints + 0.2)
        for _ in range(12):
            each.advance(0.02)
            seen.append(each.render()[0])
    differ = [np.abs(a.astype(int) - b).mean() for a, b in zip(images[prompt][:-5], images[late][5:], strict=True)]
    assert max(differ) == 0.0
    assert np.abs(images[prompt][6].astype(int) - images[late][6]).mean() > 0.1


def seen(scene, task, **surroundings):
    return world(scene, task, replace(CALM, surroundings=Surroundings(**surroundings))).render()


def test_shadows_things_and_tints_are_in_the_images(scene, task):
    plain = seen(scene, task)[0].astype(int)
    dark = seen(scene, task, shadows=(Shadow(place=(-0.5, 0.1), radius_m=0.1, depth=0.4),))[0].astype(int)
    assert (dark - plain).min() < -20 and (dark > plain + 2).mean() < 0.01
    blue = Thing(shape="box", half_m=(0.04, 0.04, 0.03), position=(-0.45, 0.3, 0.03), yaw=0.3, colour=(0.1, 0.1, 0.9))
    thing = seen(scene, task, things=(blue,))[0].astype(int)
    assert ((thing - plain)[..., 2] - (thing - plain)[..., 0]).max() > 40
    warm = seen(scene, task, tint=(0.1, 0.0, -0.1))[0].astype(int)
    assert (warm - plain)[..., 0].mean() > 10 and (warm - plain)[..., 2].mean() < -10


def test_light_falls_on_the_arm_from_its_side(scene, task):
    left, right = (seen(scene, task, light=Light(towards=(-0.3, y, 0.4), ambient=0.3))[0].astype(int) for y in (1, -1))
    assert np.abs(left - right).max() > 30


def test_blur_spreads_and_keeps_the_light(scene, task):
    sharp, soft = (seen(scene, task, blur=blur)[0].astype(float) for blur in (0.0, 0.02))
    edges = [np.abs(np.diff(image, axis=1)).mean() for image in (sharp, soft)]
    assert edges[1] < 0.8 * edges[0]
    assert soft.mean() == pytest.approx(sharp.mean(), abs=1.0)
