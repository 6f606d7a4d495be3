"""A parallel gripper with two flat fingers, bolted to the flange.

The tool frame has its origin at the tool centre point (TCP), 15 cm from the flange and 1 cm above the finger tips;
z points out of the gripper and x across the fingers.
"""

from twin.robots.mjcf import numbers

TCP_M = 0.15
"""Flange to tool centre point."""
TRAVEL_M = 0.04
"""Of one finger."""
STROKE_M = 2 * TRAVEL_M
"""Between the finger centres, open minus closed."""
FORCE_N = 6.0
"""Of one finger."""
PALM_MASS_KG, FINGER_MASS_KG = 0.8, 0.05
PALM_COM_M = 0.05
"""Flange to the palm's centre of mass."""
FINGER_CENTRE_M = 0.125
"""Flange to the centres of the fingers."""
FINGER_HALF_M = (0.005, 0.012, 0.035)
PALM_COLOUR, FINGER_COLOUR = (0.45, 0.48, 0.52), (0.16, 0.16, 0.18)
FINGERS = ("finger_left", "finger_right")
MASS_KG = PALM_MASS_KG + 2 * FINGER_MASS_KG
COM_FROM_TCP_M = (PALM_MASS_KG * PALM_COM_M + 2 * FINGER_MASS_KG * FINGER_CENTRE_M) / MASS_KG - TCP_M
"""Along the tool's z axis; the weight of this mass is taken out of the measured wrench."""


def gripper_mjcf(friction: float) -> str:
    """The body on the flange, with the site "tcp" and two sliding fingers."""
    visual = f'rgba="{numbers(*PALM_COLOUR)} 1" contype="0" conaffinity="0"'
    finger = f'<geom type="box" size="{numbers(*FINGER_HALF_M)}" friction="{friction} .01 .001" condim="4" '
    finger += f'mass="{FINGER_MASS_KG}" rgba="{numbers(*FINGER_COLOUR)} 1"/>'
    sides = "".join(
        f'<body name="{name}" pos="0 0 {FINGER_CENTRE_M}" gravcomp="1">'
        f'<joint name="{name}" type="slide" axis="1 0 0" range="{limits}" damping="5"/>{finger}</body>'
        for name, limits in zip(FINGERS, (f"-{TRAVEL_M} 0", f"0 {TRAVEL_M}"), strict=True)
    )
    return (
        '<body name="gripper" gravcomp="1">'
        f'<inertial pos="0 0 {PALM_COM_M}" mass="{PALM_MASS_KG}" diaginertia=".001 .001 .001"/>'
        f'<geom type="cylinder" size=".032 .02" pos="0 0 .02" {visual}/>'
        f'<geom type="box" size=".045 .018 .022" pos="0 0 .062" {visual}/>'
        f'<site name="tcp" pos="0 0 {TCP_M}"/>{sides}</body>'
    )


def servos_mjcf() -> str:
    """One position servo per finger."""
    return "".join(
        f'<position name="{name}" joint="{name}" kp="200" kv="10" forcerange="-{FORCE_N} {FORCE_N}"/>'
        for name in FINGERS
    )
