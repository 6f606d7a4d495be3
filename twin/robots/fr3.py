"""This module describes a Franka Research 3: seven joints, a Franka Hand, its back turned so that it faces -x.

Kinematics: Franka Control Interface documentation, "Denavit-Hartenberg parameters" (Craig's convention). Masses,
inertias, joint ranges, torque and speed limits: franka_description, robots/fr3. Rotor inertias as seen at the joints:
Franka's, as published with Drake's model. The links are drawn as capsules; the servos' gains are the twin's own.
"""

import math
from collections.abc import Mapping

from twin.robots.base import (
    LIGHT_GREY,
    WHITE,
    Capsule,
    Inertial,
    Link,
    Part,
    Robot,
    Transform,
    Triple,
    modified_dh,
    turned_about_z,
)
from twin.robots.grippers import FRANKA_HAND

_QUARTER = math.pi / 2
_SHOULDER = {"torque": 87.0, "velocity": 2.62, "stiffness": 4000.0, "servo_damping": 200.0, "armature": 0.605721456}
_ELBOW = {"torque": 87.0, "velocity": 2.62, "stiffness": 4000.0, "servo_damping": 150.0, "armature": 0.462474144}
_WRIST = {"torque": 12.0, "velocity": 5.26, "stiffness": 800.0, "servo_damping": 30.0, "armature": 0.205544064}
_INERTIALS = (
    (2.9274653, (0.0, -0.0181251, -0.0386036), (0.0239273, 0.0224822, 0.0063501, 0.0000133, -0.0001140, -0.0019950)),
    (
        2.9355370,
        (0.0031829, -0.0743222, 0.0088146),
        (0.0419389, 0.0251451, 0.0617021, 0.0002026, 0.0040778, -0.0042252),
    ),
    (
        2.2449014,
        (0.0407016, -0.0048201, -0.0289731),
        (0.0241014, 0.0197405, 0.0190445, 0.0024047, -0.0028563, -0.0021042),
    ),
    (
        2.6155956,
        (-0.0459101, 0.0630493, -0.0085188),
        (0.0345300, 0.0288816, 0.0412547, 0.0132255, 0.0101514, -0.0009763),
    ),
    (
        2.3271208,
        (-0.0016040, 0.0292536, -0.0972966),
        (0.0516103, 0.0478773, 0.0164236, -0.0057152, -0.0035673, 0.0106740),
    ),
    (
        1.8170377,
        (0.0597131, -0.0410295, -0.0101693),
        (0.0054123, 0.0140583, 0.0160808, 0.0061935, 0.0014219, -0.0013141),
    ),
    (
        0.6271433,
        (0.0045226, 0.0086262, -0.0161633),
        (0.0002109, 0.0001772, 0.0000599, -0.0000243, 0.0000456, 0.0000874),
    ),
)
"""Mass, centre of mass and inertia of each link."""


def _link(number: int, dh: Transform, limits: tuple[float, float], motor: Mapping[str, float], *parts: Part) -> Link:
    mass, com, inertia = _INERTIALS[number - 1]
    return Link(
        name=f"joint{number}",
        parent_from_joint=dh,
        inertial=Inertial(mass=mass, com=com, inertia=inertia),
        range=limits,
        parts=parts,
        **motor,
    )


def _bar(start: Triple, end: Triple, radius: float, colour: Triple = WHITE) -> Capsule:
    return Capsule(start=start, end=end, radius=radius, colour=colour)


_LINKS = (
    _link(1, modified_dh(0.0, 0.333, 0.0), (-2.7437, 2.7437), _SHOULDER, _bar((0, 0, -0.18), (0, 0, 0), 0.06)),
    _link(
        2,
        modified_dh(0.0, 0.0, -_QUARTER),
        (-1.7837, 1.7837),
        _SHOULDER,
        _bar((0, 0, -0.06), (0, 0, 0.06), 0.06),
        _bar((0, 0, 0), (0, -0.2, 0), 0.055),
    ),
    _link(
        3,
        modified_dh(0.0, 0.316, _QUARTER),
        (-2.9007, 2.9007),
        _ELBOW,
        _bar((0, 0, -0.12), (0, 0, -0.03), 0.055),
        _bar((0, 0, -0.03), (0.0825, 0, 0), 0.05),
    ),
    _link(
        4,
        modified_dh(0.0825, 0.0, _QUARTER),
        (-3.0421, -0.1518),
        _ELBOW,
        _bar((0, 0, -0.055), (0, 0, 0.055), 0.055),
        _bar((0, 0, 0), (-0.0825, 0.09, 0), 0.05),
    ),
    _link(
        5,
        modified_dh(-0.0825, 0.384, -_QUARTER),
        (-2.8065, 2.8065),
        _WRIST,
        _bar((0, 0, -0.28), (0, 0.05, -0.1), 0.05),
        _bar((0, 0.06, -0.1), (0, 0, 0), 0.045, LIGHT_GREY),
    ),
    _link(
        6,
        modified_dh(0.0, 0.0, _QUARTER),
        (0.5445, 4.5169),
        _WRIST | {"velocity": 4.18},
        _bar((0, 0, -0.03), (0, 0, 0.05), 0.045),
        _bar((0, 0, 0), (0.088, 0, 0), 0.045),
    ),
    _link(
        7,
        modified_dh(0.088, 0.0, _QUARTER),
        (-3.0159, 3.0159),
        _WRIST,
        _bar((0, 0, 0.03), (0, 0, 0.075), 0.042, LIGHT_GREY),
    ),
)
FR3 = Robot(
    name="fr3",
    base_from_mount=turned_about_z(math.pi),
    base_mass_kg=2.3966,
    base_parts=(_bar((-0.06, 0, 0.06), (0, 0, 0.06), 0.06, LIGHT_GREY), _bar((0, 0, 0.06), (0, 0, 0.14), 0.06)),
    links=_LINKS,
    flange=Transform(position=(0, 0, 0.107)),
    gripper=FRANKA_HAND,
    flange_from_gripper=turned_about_z(-3 * math.pi / 4),
    home=(0.0, 0.1, 0.0, -2.3, 0.0, 2.4, math.pi / 4),
)
