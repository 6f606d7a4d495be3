"""The twin as a Gymnasium environment: one slot, dictionary observations."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from protos.schema import ACTION_DIM, F32, PROPRIO_DIM, Configuration, Schema
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import Scene
from twin.tasks import Task


class GymTwin(gymnasium.Env[dict[str, Any], F32]):
    """One twin. `reset(options={"configuration": c})` or `{"region": "B"}` choose the start, else it is drawn."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self, scene: Scene, task: Task, *, domain: Domain | None = None, schema: Schema | None = None, seed: int = 0
    ) -> None:
        layout = schema or Schema()
        self._twin = VectorTwin(scene, task, n=1, domain=domain or Domain(), seed=seed, schema=layout)
        self.render_mode = "rgb_array"
        image = {name: spaces.Box(0, 255, layout.fields[name][1], np.uint8) for name in ("side", "wrist")}
        proprio = spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32)
        self.observation_space = spaces.Dict({**image, "proprio": proprio})
        self.action_space = spaces.Box(-1, 1, (ACTION_DIM,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode; the info holds its configuration."""
        super().reset(seed=seed)
        if seed is not None:
            self._twin.seed(seed)
        configuration: Configuration | None = (options or {}).get("configuration")
        if configuration is None:
            space = self._twin.task.space
            configuration = space.sample(self.np_random, region=(options or {}).get("region"))
        self._twin.reset(0, configuration)
        return self._observation(), {"configuration": configuration}

    def step(self, action: F32) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One control step of 0.1 s."""
        step = self._twin.step(np.asarray(action, np.float32)[None])
        info = {"success": bool(step.success[0]), "executed": step.executed[0]}
        ends = bool(step.terminated[0]), bool(step.truncated[0])
        return self._observation(), float(step.reward[0]), *ends, info

    def render(self) -> Any:
        """The side camera's picture."""
        return self._observation()["side"]

    def expert_action(self) -> F32:
        """What the task's expert would do now, (7,)."""
        return self._twin.expert_action()[0]

    def close(self) -> None:
        """Ends the twin."""
        self._twin.close()

    def _observation(self) -> dict[str, Any]:
        observation = self._twin.observe()
        return {"side": observation.side[0], "wrist": observation.wrist[0], "proprio": observation.proprio[0]}
