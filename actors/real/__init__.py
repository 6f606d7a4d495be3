"""The robot's computer: one UR arm, its cameras, limits, and the person beside it. No Ray, no learner.

     guide ── next configuration ──►┌───────────────────────────── episode loop ─────────────────────────────┐
     weights ── policy ────────────►│ RealEnvironment                                                        │
                                    │   arm.UrArm ── safety.Limits ── link (ur_rtde) ──► controller of the arm │
     operator (actors.human) ──────►│   gripper, cameras, hands                                              │
                                    └──── segments ──► sink ──► replay (spooled on disk first) ──────────────┘

The same code drives a real UR arm and the stand-in (`actors.simulated_ur`), which differs by nothing but the address
and who handles objects and cameras. Limits, watchdog and hold are described in docs/safety.md.

    python -m actors.real demonstrate|evaluate|train --settings real.json --arm
    python -m actors.simulated_ur --settings standin.json

Doors: `settings.RealSettings`, `robot.Robot`, `modes.demonstrate`, `modes.evaluate`, `modes.train`,
`simulated.settings.StandinSettings`.
"""
