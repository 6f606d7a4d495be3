"""This module shows the robot and a task's bodies as the twin draws them, posed by a slider per joint."""

import numpy as np
import viser

from protos.schema import Configuration
from twin.physics import MujocoPhysics
from twin.randomize import DOMAINS
from twin.render.moving import moving_splats
from twin.rotations import quaternion_from_matrix
from twin.scene import Scene
from twin.tasks import Task
from twinrl.viewer.shapes import WRIST, add_camera, add_splats, wrist_camera


class PosedRobot:
    """An arm with its task's bodies at one configuration; a set of splats per body, moved and never sent again."""

    def __init__(self, server: viser.ViserServer, scene: Scene, task: Task, configuration: Configuration) -> None:
        self._server, self._scene = server, scene
        self._physics = MujocoPhysics(scene.robot, task, DOMAINS["twin"], 1)
        self._poses = task.body_poses(configuration)
        moving = moving_splats(self._physics.model, scene.robot, task)
        names = {int(body): self._physics.model.body(int(body)).name for body in np.unique(moving.body)}
        self._handles = {
            body: add_splats(server, f"/robot/{name}", moving.splats[np.flatnonzero(moving.body == body)])
            for body, name in names.items()
        }
        self._joints = np.array(scene.robot.home)
        self.show()

    def show(self) -> None:
        """Puts every body, and the wrist camera, to the joint angles."""
        self._physics.reset(np.zeros(1, int), self._joints[None], self._poses)
        positions, rotations = self._physics.body_positions[0], self._physics.body_rotations[0].reshape(-1, 3, 3)
        with self._server.atomic():
            for body, handle in self._handles.items():
                handle.position, handle.wxyz = positions[body], quaternion_from_matrix(rotations[body])
            tool = self._physics.tool_position[0], self._physics.tool_rotation[0]
            add_camera(self._server, "/cameras/wrist", wrist_camera(self._scene, *tool), WRIST, scale=0.05)

    def add_sliders(self) -> None:
        """Adds a slider per joint, in degrees, within the joint's range."""
        with self._server.gui.add_folder("joints [deg]"):
            for index, link in enumerate(self._scene.robot.links):
                low, high = np.degrees(link.range)
                start = float(np.degrees(self._joints[index]))
                slider = self._server.gui.add_slider(
                    link.name, min=float(low), max=float(high), step=0.5, initial_value=start
                )
                slider.on_update(lambda event, index=index: self.turn(index, event.target.value))

    def turn(self, index: int, degrees: float) -> None:
        """Turns one joint."""
        self._joints[index] = np.radians(degrees)
        self.show()
