"""This module writes robots as MJCF: nested bodies, servos, attributes."""

from collections.abc import Sequence

from twin.robots.base import FINGERS, Block, Capsule, Cylinder, Gripper, Inertial, Link, Part, Robot, Transform

VISUAL = 'contype="0" conaffinity="0"'


def numbers(*values: float) -> str:
    """Formats the numbers of an attribute, separated by spaces."""
    return " ".join(f"{value:.15g}" for value in values)


def robot_mjcf(robot: Robot, friction: float) -> str:
    """Writes the body "base" with the nested links and, at the end, the bodies "flange" and "gripper"."""
    bodies = "".join(_link_mjcf(link) for link in robot.links)
    base = _parts_mjcf(robot.base_parts, robot.base_mass_kg)
    gripper = gripper_mjcf(robot.gripper, robot.flange_from_gripper, friction)
    return (
        f'<body name="base" {_placed(robot.base_from_mount)}>{base}{bodies}'
        f'<body name="flange" {_placed(robot.flange)}>{gripper}</body>{"</body>" * len(robot.links)}</body>'
    )


def gripper_mjcf(gripper: Gripper, flange_from_gripper: Transform, friction: float) -> str:
    """Writes the body on the flange, with the site "tcp" and two sliding fingers."""
    finger = f'<geom type="box" size="{numbers(*gripper.finger_half_m)}" friction="{friction} .01 .001" condim="4" '
    finger += f'mass="{gripper.finger_mass_kg}" rgba="{numbers(*gripper.finger_colour)} 1"/>'
    closed, travel = gripper.finger_half_m[0], gripper.travel_m
    sides = "".join(
        f'<body name="{name}" pos="{numbers(side * closed, 0, gripper.finger_centre_m)}" gravcomp="1">'
        f'<joint name="{name}" type="slide" axis="{side} 0 0" range="0 {travel}" damping="{gripper.damping}"/>'
        f"{finger}</body>"
        for name, side in zip(FINGERS, (-1, 1), strict=True)
    )
    return (
        f'<body name="gripper" {_placed(flange_from_gripper)} gravcomp="1">{_inertial_mjcf(gripper.palm)}'
        f'{_parts_mjcf(gripper.palm_parts)}<site name="tcp" pos="0 0 {gripper.tcp_m}"/>{sides}</body>'
    )


def servos_mjcf(robot: Robot, stiffness: float) -> str:
    """Writes a position servo per joint, scaled in stiffness with its damping ratio kept, then one per finger."""
    gripper = robot.gripper
    arm = "".join(
        f'<position name="{link.name}" joint="{link.name}" kp="{link.stiffness * stiffness:.9g}" '
        f'kv="{link.servo_damping * stiffness**0.5:.9g}" forcerange="{-link.torque} {link.torque}"/>'
        for link in robot.links
    )
    return arm + "".join(
        f'<position name="{name}" joint="{name}" kp="{gripper.stiffness}" kv="{gripper.servo_damping}" '
        f'forcerange="-{gripper.force_n} {gripper.force_n}"/>'
        for name in FINGERS
    )


def _link_mjcf(link: Link) -> str:
    """Opens the link's body; its children follow."""
    joint = f'<joint name="{link.name}" axis="0 0 1" range="{numbers(*link.range)}" armature="{link.armature}" '
    joint += f'damping="{link.damping}"/>'
    start = f'<body name="{link.name}" {_placed(link.parent_from_joint)} gravcomp="1">'
    return f"{start}{joint}{_inertial_mjcf(link.inertial)}{_parts_mjcf(link.parts)}"


def _inertial_mjcf(inertial: Inertial) -> str:
    return (
        f'<inertial pos="{numbers(*inertial.com)}" mass="{inertial.mass}" fullinertia="{numbers(*inertial.inertia)}"/>'
    )


def _parts_mjcf(parts: Sequence[Part], mass_kg: float = 0.0) -> str:
    mass = f'mass="{mass_kg / len(parts)}"' if parts else ""
    return "".join(f'<geom {_shape(part)} rgba="{numbers(*part.colour)} 1" {mass} {VISUAL}/>' for part in parts)


def _shape(part: Part) -> str:
    match part:
        case Capsule():
            return f'type="capsule" fromto="{numbers(*part.start, *part.end)}" size="{part.radius}"'
        case Cylinder():
            size = numbers(part.radius, part.half_height)
            return f'type="cylinder" size="{size}" pos="{numbers(*part.centre)}"'
        case Block():
            return f'type="box" size="{numbers(*part.half)}" pos="{numbers(*part.centre)}"'


def _placed(transform: Transform) -> str:
    return f'pos="{numbers(*transform.position)}" quat="{numbers(*transform.quaternion)}"'
