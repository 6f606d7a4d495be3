"""This module describes parallel grippers as boxes: lengths, strokes and masses of their data sheets.

The fingers press more gently than the real ones can (2F-85: 20 to 235 N; Franka Hand: 70 N) and move faster (2F-85: at
most 150 mm/s). With steps of 5 ms a contact between things of 50 g gives way by a third of a millimetre per newton:
3.6 N on a cube of 36 mm press it together by 1.2 mm, 20 N would by 5 mm.
"""

from twin.robots.base import DARK, GREY, WHITE, Block, Cylinder, Gripper, Inertial

ROBOTIQ_2F85 = Gripper(
    name="robotiq_2f85",
    stroke_m=0.085,
    palm=Inertial(mass=0.825, com=(0, 0, 0.05), inertia=(0.001, 0.001, 0.001, 0, 0, 0)),
    palm_parts=(
        Cylinder(centre=(0, 0, 0.02), radius=0.032, half_height=0.02, colour=GREY),
        Block(centre=(0, 0, 0.062), half=(0.045, 0.018, 0.022), colour=GREY),
    ),
    finger_mass_kg=0.05,
    finger_centre_m=0.125,
    finger_half_m=(0.005, 0.012, 0.035),
    tcp_m=0.15,
    force_n=6.0,
    stiffness=200.0,
    servo_damping=10.0,
    damping=5.0,
)
"""Robotiq 2F-85 (instruction manual, "Specifications"): 85 mm, 0.925 kg. Fingers that stay parallel and at one height
stand for its linkage; the TCP is 1 cm above their tips."""

FRANKA_HAND = Gripper(
    name="franka_hand",
    stroke_m=0.08,
    palm=Inertial(mass=0.6718, com=(-0.0119, 0, 0.0207), inertia=(0.0003, 0.00186, 0.00174, 0, 0.00002, 0)),
    palm_parts=(Block(centre=(0, 0, 0.033), half=(0.1, 0.03, 0.033), colour=WHITE),),
    finger_mass_kg=0.0291,
    finger_centre_m=0.0844,
    finger_half_m=(0.008, 0.0105, 0.028),
    finger_colour=DARK,
    tcp_m=0.1034,
    force_n=6.0,
    stiffness=200.0,
    servo_damping=10.0,
    damping=5.0,
)
"""Franka Hand (product manual; franka_description, end_effectors/franka_hand): 80 mm, 0.73 kg in all."""
