"""Arm, gripper, table and a task's bodies as one MuJoCo model.

Euler integration is a choice, not a default: with the implicit integrator a held object creeps 4 mm per control step
between the fingers of an arm with stiff position servos, with Euler 0.3 mm.
"""

import mujoco

from twin.randomize import Domain
from twin.robots.base import FINGERS, Robot
from twin.robots.mjcf import robot_mjcf, servos_mjcf
from twin.tasks.base import Task

TIMESTEP_S = 0.005


def steps_in(seconds: float) -> int:
    """Whole physics steps in a span of time."""
    return round(seconds / TIMESTEP_S)


def build_model(robot: Robot, task: Task, domain: Domain) -> mujoco.MjModel:
    """The compiled model; the table top is z = 0 and the robot stands where it is mounted."""
    left, right = FINGERS
    return mujoco.MjModel.from_xml_string(
        f"""<mujoco><compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="Euler" cone="elliptic" impratio="5" iterations="20">
    <flag autoreset="disable"/></option>
  <asset>{task.assets(domain)}</asset>
  <worldbody>
    <geom name="table" type="box" size=".45 .55 .05" pos="-.35 0 -.05" friction=".6 .005 .0001"/>
    {task.mjcf(domain)}
    {robot_mjcf(robot, domain.friction)}
  </worldbody>
  <contact><exclude body1="{left}" body2="{right}"/></contact>
  <actuator>{servos_mjcf(robot, domain.servo_stiffness)}</actuator>
  <sensor><force name="force" site="tcp"/><torque name="torque" site="tcp"/></sensor>
</mujoco>"""
    )
