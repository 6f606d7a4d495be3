"""The stand-in has the robot and tool of its scene, as long as a UR controller drives it."""

from dataclasses import replace

import numpy as np
import pytest

from actors.simulated_ur import StandinSettings
from actors.simulated_ur.kinematics import ControllerKinematics
from actors.simulated_ur.world import host_world
from protos.errors import InputError
from protos.schema import Schema
from twin import robots
from twin.robots import Transform
from twin.scene import synthetic_scene


def hosted(folder, robot):
    replace(synthetic_scene(spacing_m=0.05), robot=robot).save(folder)
    return host_world(StandinSettings(scene=folder, host="127.0.0.9", schema=Schema(side_px=16, wrist_px=16)))


def test_the_controller_knows_the_tool_of_the_scene(tmp_path):
    mount = Transform(position=(0.0, 0.01, 0.05))
    robot = replace(robots.get("ur5e"), flange_from_gripper=mount, gripper=robots.get_gripper("franka_hand"))
    standin = hosted(tmp_path, robot)
    kinematics = ControllerKinematics(standin.robot)
    np.testing.assert_allclose(kinematics.flange_from_tcp, [0, 0.01, 0.05 + 0.1034, 0, 0, 0])
    np.testing.assert_allclose(kinematics.pose_of(standin.world.joints), standin.world.tcp_pose, atol=1e-5)


def test_another_arm_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'fr3'.*simulates a ur5e"):
        hosted(tmp_path, robots.get("fr3"))
