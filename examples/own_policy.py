"""This example is a policy of one's own that acts in the twin: it looks for red and blue in the side camera's image.

Any object with `window`, `ready` and `act` is a policy (`actors.Policy`); the same loop runs it in twins and on an arm.
After `pip install -e examples`, `twinrl probe fetch_the_cube --scene SCENE` tries it from every cell.
"""

from contextlib import closing

import numpy as np

from actors import Decision
from actors.sim.evaluation import run_from
from protos.schema import F64, U8, Bools, Observation, Outcome, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task


class FetchTheCube:
    """A policy that goes to what is red, closes the gripper, goes to what is blue and opens it."""

    window = 1  # observations that a decision is made from

    def __init__(self, scene: Scene, task: Task, schema: Schema) -> None:
        self._camera = scene.side.camera(schema.side_px)

    def ready(self) -> str:
        return ""  # else what it waits for

    def act(self, observation: Observation, pad: Bools | None) -> Decision:
        proprio = observation.proprio.astype(float)
        tool, ahead, holds = proprio[:, :3], proprio[:, 19:22], (proprio[:, 18] > 0.2) & (proprio[:, 18] < 0.7)
        cube, disc = self._seen(observation.side, 0, z=0.018), self._seen(observation.side, 2, z=0.0)
        goal, low = np.where(holds[:, None], disc, cube), np.where(holds, 0.035, 0.016)
        off = np.linalg.norm((goal - tool)[:, :2], axis=1)
        goal[:, 2] = low + np.clip(4 * (off - 0.010), 0, 0.08)  # down as the tool comes near
        there = (off < np.where(holds, 0.025, 0.012)) & (tool[:, 2] < low + 0.01)
        action = np.zeros((len(tool), 7), np.float32)
        action[:, :3] = np.clip((goal - tool - ahead) / 0.03, -1, 1)  # `ahead` is commanded and still to come
        action[:, 6] = np.where(holds != there, -1, 1)  # closed from the cube on, open from the disc on
        return Decision(action=action, embedding=None, version=0, backbone_id="")

    def _seen(self, images: U8, channel: int, *, z: float) -> F64:
        """Returns the points (n, 3) at a height whose pixels have the colour of one channel."""
        weight = np.clip(2.0 * images[..., channel] - images.sum(-1, dtype=float) - 20, 1e-6, None)
        rows, columns = np.mgrid[: images.shape[1], : images.shape[2]] + 0.5
        u, v = ((weight * axis).sum((1, 2)) / weight.sum((1, 2)) for axis in (columns, rows))
        camera, pose = self._camera, self._camera.base_from_camera
        rays = np.column_stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 0 * u + 1]) @ pose[:3, :3].T
        return pose[:3, 3] + rays * ((z - pose[2, 3]) / rays[:, 2:])


if __name__ == "__main__":
    scene, task, schema = synthetic_scene(), tasks.get("pick_and_place"), Schema()
    starts = task.space.spread(np.random.default_rng(0), region="B", rollouts=20)
    with closing(VectorTwin(scene, task, n=10, domain=Domain(), seed=0, schema=schema)) as twin:
        results = run_from(starts, twin, FetchTheCube(scene, task, schema))
    print(f"{sum(one.outcome is Outcome.SUCCESS for one in results)} of {len(results)} episodes succeeded")
