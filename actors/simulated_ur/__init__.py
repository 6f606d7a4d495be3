"""A simulated UR controller that the real ur_rtde client connects to, with MuJoCo physics behind it.

    ur_rtde ──30003──► script.py      the uploaded URScript starts the "program"
            ──30004──► rtde.py ──inputs──► controller.py ──commands──► commands.py ──► motion.py (servo, move, stop)
            ◄──state──    │                     │                                          │ joint targets
            ──29999──► dashboard.py             │ clock.py: robot time                     ▼
    gripper ──63352──► robotiq.py ──────────────┴────────────────────────────────► world.py ─► twin.world.ArmWorld
    lab     ──30100──► bench.py   camera frames, placing objects, verdicts (what a person in the lab does and sees)

It listens on one loopback address of its own (127.0.0.N), because the ports of a UR controller are fixed. It is a
process of its own, started with `python -m actors.simulated_ur --settings FILE`; the robot side knows nothing of it
but the address.

What it leaves out of a real controller: joint torques and currents, force mode, paths (`movePath`), digital and analog
outputs, self-collision and reach checks. The wrench is the one that the physics reports.
"""
