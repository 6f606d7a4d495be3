"""The digital twin: a splat scene, MuJoCo physics, cameras, an expert, and the vector environment made of them.

    scan ─► scene folder ─► Scene (static splats, cameras) ──┐
    task (objects, space, success, expert) ──┐               ▼
    domain (latency, gains, friction, looks) ┴─► MuJoCo ─► render ─► VectorTwin ─► Observation, Step

Everything is in the robot's base frame. Importing this package loads nothing heavy and never torch; only the
rasterizers "torch" and "gsplat" need torch. The doors:

    twin.camera     Camera(base_from_camera, width, height, fx, fy, cx, cy), look_at(eye, along=|at=, fovy_deg=, px=)
    twin.splats     Splats, read_splats(path, up=) (PLY, compressed PLY, SPZ), read_ply(path), write_ply(path, splats),
                    concatenate, merge_voxels(splats, size_m)
    twin.scene      Scene.load(folder), Scene.save(folder), synthetic_scene()
    twin.align      align(views, points, robot_model(name), joints, settings) -> Alignment: base frame from the robot
    twin.objects    cut(scene folder, name, settings) -> ScannedObject: movable splats with convex parts
    twin.render     get("numba" | "gsplat" | "torch").render(splats, cameras) -> [Picture], available();
                    rasterize(splats, camera) -> Picture (numba); compositor.TwinRenderer
    twin.tasks      get(name) -> Task, names(), register(make); TWINRL_TASKS names modules with more of them
    twin.randomize  Domain, DOMAINS
    twin.env        VectorTwin(scene, task, n=, domain=, seed=, schema=, threads=1, physics="mujoco",
                               exact=False)
                    .reset(slot, configuration) .observe() .step(action) .expert_action() .state() .close()
    twin.gym        GymTwin(gymnasium.Env)
    twin.world      ArmWorld(scene, task, domain, *, schema): one arm, moved in small slices of time
                    .place(configuration)            objects only; the arm stays where it is
                    .set_joint_targets(q)            (joints,) rad, held by the joint servos
                    .set_gripper(opening)            0 closed .. 1 open
                    .advance(seconds)                whole 5 ms physics steps; the remainder is carried over
                    .joints, .joint_velocities       (joints,) rad, rad/s
                    .tcp_pose, .tcp_velocity         (6,) m + rotation vector, m/s + rad/s, base frame
                    .wrench                          (6,) N, Nm at the TCP, base frame, tool weight removed
                    .opening                         measured, 0..1
                    .object_pose(name)               (x, y, z, yaw)
                    .success()                       true at this moment; the task asks for 2 control steps in a row
                    .render() -> (side, wrist)       u8 (px, px, 3)
    twin.robots     get(name) -> Robot, names(); a robot is data: links, gripper, mounts
    twin.kinematics Kinematics(robot).forward(q) .inverse(q, position, rotation) .tool_velocity(q, velocity)
                    .start_joints(position, yaw)
    twin.physics    make(name, robot, task, domain, n=, threads=1) -> Physics, names(); "mujoco" is the default
    twin.tasks.expert     reach, insert, act: what the tasks' experts are made of, pure numpy functions
    twin.tasks.trials     trials(task, domain, region, n, seed, robot=) -> Trials: how often the expert succeeds
    twin.rotations  rotation vectors, matrices, quaternions; `continuous` picks the branch of a rotation vector
    twin.expand     Expander, Tracker, Coverage: many twin demonstrations from a few
"""
