"""This package is the digital twin: a splat scene, physics, cameras, tasks with experts, and environments of them.

    photos ─► scan, align, objects ─► scene folder ─► Scene (static splats, cameras, robot) ─┐
    Task (objects, starts, success, expert) ─────────┐                                       ▼
    Domain (latency, gains, friction, appearance) ───┴─► physics ──────────────────────► render
                                                            └────────────┬──────────────────┘
                VectorTwin: n slots, for actors and trials ◄─────────────┼───► ArmWorld: one simulated arm
                GymTwin, GymVectorTwin: for Gymnasium ◄──────────────────┘

Everything is in the robot's base frame. Importing this package loads nothing heavy and never torch; only the
rasterizers "torch" and "gsplat" need torch. The docstring of each room tells its doors:

    scan, align, objects    from photos to a scene folder, its base frame, and movable objects
    splats, surfaces        sets of Gaussians and their files; simple surfaces covered with them
    scene, camera           the scene folder; pinhole cameras
    render                  rasterizers by name, and the renderer of a vector twin
    robots, kinematics      arms and grippers as data, by name; forward and inverse kinematics
    tasks                   tasks by name, and what their experts are made of
    randomize               domains: dynamics and appearance of one world
    physics                 engines by name behind one interface
    env, world, gym         the environments; `env.trials` tells how often an expert succeeds
    expand                  many twin demonstrations from a few
    plugins                 tasks and robots of other packages
"""
