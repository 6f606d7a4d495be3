"""The scan's base frame and scale from the robot in it (TwinRL, section 3.2, L_align).

twin.align.align    align(views, points, robot_model, joints, settings) -> Alignment
twin.align.robot    robot_model("ur5e" | file.urdf | file.xml) -> RobotModel
twin.align.refine   refine(targets, start, settings): splats moved until their silhouettes fall on masks
twin.align.icp      register(points, surface, start, settings): coarse, from anywhere
"""
