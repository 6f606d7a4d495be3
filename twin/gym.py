"""This module offers the twin to Gymnasium: one twin, n twins that step together, and an id for every task.

    import gymnasium
    import twin.gym  # makes the ids known

    env = gymnasium.make("TwinRL/PickAndPlace-v0")                          # the synthetic scene
    env = gymnasium.make("TwinRL/PickAndPlace-v0", scene="runs/demo/scene", domain="varied")
    envs = gymnasium.make_vec("TwinRL/PickAndPlace-v0", num_envs=8)         # one VectorTwin of 8 slots

`gymnasium.make("twin.gym:TwinRL/PickAndPlace-v0")` does the import by itself. Observations are dictionaries: "side" and
"wrist" images (px, px, 3) of uint8 and "proprio" (25,), laid out as in `protos.schema`; actions are (7,) in [-1, 1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from protos.schema import ACTION_DIM, CONTROL_HZ, F32, PROPRIO_DIM, Bools, Configuration, Observation, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain, domain_named
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task

Observed = dict[str, Any]
"""Arrays by name: "side", "wrist", "proprio"."""
IMAGES = ("side", "wrist")
ACTIONS = spaces.Box(-1, 1, (ACTION_DIM,), np.float32)


class GymTwin(gymnasium.Env[Observed, F32]):
    """One twin is a Gymnasium environment.

    `reset(options={"configuration": c})` or `{"region": "B"}` choose the start, else it is drawn from the whole space.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}

    def __init__(
        self,
        scene: Scene | Path | str | None = None,
        task: Task | str = "pick_and_place",
        *,
        domain: Domain | str = "twin",
        schema: Schema | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """`scene` is a scene or its folder, None the synthetic one; `schema` has the images' sizes."""
        layout = schema or Schema()
        self._twin = _twins(1, scene, task, domain, layout)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _observations(layout), ACTIONS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observed, Observed]:
        """Starts an episode; the info holds its configuration."""
        super().reset(seed=seed)
        if seed is not None:
            self._twin.seed(seed)
        configuration = _start(self._twin.task, self.np_random, options)
        self._twin.reset(0, configuration)
        return self._observation(), {"configuration": configuration}

    def step(self, action: F32) -> tuple[Observed, float, bool, bool, Observed]:
        """Makes one control step of 0.1 s; the info holds `success` and the action as executed."""
        step = self._twin.step(np.asarray(action, np.float32)[None])
        info = {"success": bool(step.success[0]), "executed": step.executed[0]}
        ends = bool(step.terminated[0]), bool(step.truncated[0])
        return self._observation(), float(step.reward[0]), *ends, info

    def render(self) -> Any:
        """Returns the side camera's image."""
        return self._observation()["side"]

    def expert_action(self) -> F32:
        """Returns the action (7,) of the task's expert, who sees the twin's privileged state."""
        return self._twin.expert_action()[0]

    def close(self) -> None:
        """Ends the twin."""
        self._twin.close()

    def _observation(self) -> Observed:
        return {name: rows[0] for name, rows in _arrays(self._twin.observe()).items()}


class GymVectorTwin(VectorEnv[Observed, F32, Any]):
    """n twins that step together are a Gymnasium vector environment.

    Autoreset is NEXT_STEP: the step that ends an episode shows its last observation; the next step of that slot ignores
    its action, starts a new episode and returns its first observation with reward 0. The info then holds its
    configuration under "configuration", masked by "_configuration".
    """

    metadata: ClassVar[dict[str, Any]] = GymTwin.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        scene: Scene | Path | str | None = None,
        task: Task | str = "pick_and_place",
        *,
        domain: Domain | str = "twin",
        schema: Schema | None = None,
        render_mode: str | None = "rgb_array",
        threads: int = 1,
    ) -> None:
        """Takes the arguments of `GymTwin`; `threads` step the physics and draw the images."""
        layout = schema or Schema()
        self._twin = _twins(num_envs, scene, task, domain, layout, threads)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space, self.single_action_space = _observations(layout), ACTIONS
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended: Bools = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, Observed]:
        """Starts an episode in every slot; options as for one twin, used by all. Several seeds make one."""
        one = seed if seed is None or isinstance(seed, int) else int(np.random.SeedSequence(seed).generate_state(1)[0])
        super().reset(seed=one)
        if one is not None:
            self._twin.seed(one)
        info = self._begin(np.ones(self.num_envs, bool), options)
        return _arrays(self._twin.observe()), info

    def step(self, actions: F32) -> tuple[Observed, Any, Any, Any, Observed]:
        """Makes one control step of every slot; one that ended in the step before starts anew instead."""
        step, fresh = self._twin.step(np.asarray(actions, np.float32)), self._ended
        info = self._begin(fresh, None)
        self._ended = (step.terminated | step.truncated) & ~fresh
        info |= {"success": step.success & ~fresh, "executed": step.executed}
        reward = np.where(fresh, 0, step.reward).astype(float)
        return _arrays(self._twin.observe()), reward, step.terminated & ~fresh, step.truncated & ~fresh, info

    def render(self) -> tuple[Any, ...]:
        """Returns the side camera's image of every slot."""
        return tuple(self._twin.observe().side)

    def expert_action(self) -> F32:
        """Returns the actions (n, 7) of the task's expert."""
        return self._twin.expert_action()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the twins."""
        self._twin.close()

    def _begin(self, fresh: Bools, options: dict[str, Any] | None) -> Observed:
        """Starts episodes in some slots; returns their configurations as Gymnasium's vector infos hold them."""
        self._ended = np.zeros(self.num_envs, bool)
        begun = np.full(self.num_envs, None, object)
        for slot in np.flatnonzero(fresh):
            begun[slot] = _start(self._twin.task, self.np_random, options)
            self._twin.reset(int(slot), begun[slot])
        return {"configuration": begun, "_configuration": fresh} if fresh.any() else {}


def _twins(
    n: int, scene: Scene | Path | str | None, task: Task | str, domain: Domain | str, schema: Schema, threads: int = 1
) -> VectorTwin:
    if not isinstance(scene, Scene):
        scene = synthetic_scene() if scene is None else Scene.load(scene)
    return VectorTwin(
        scene,
        tasks.get(task) if isinstance(task, str) else task,
        n=n,
        domain=domain_named(domain) if isinstance(domain, str) else domain,
        seed=0,
        schema=schema,
        threads=threads,
    )


def _observations(schema: Schema) -> spaces.Dict:
    images = {name: spaces.Box(0, 255, schema.fields[name][1], np.uint8) for name in IMAGES}
    return spaces.Dict({**images, "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32)})


def _arrays(observation: Observation) -> Observed:
    return {"side": observation.side, "wrist": observation.wrist, "proprio": observation.proprio}


def _start(task: Task, rng: np.random.Generator, options: dict[str, Any] | None) -> Configuration:
    chosen = options or {}
    configuration: Configuration | None = chosen.get("configuration")
    return configuration or task.space.sample(rng, region=chosen.get("region"))


def id_of(task: str) -> str:
    """Returns a task's id in Gymnasium: "pick_and_place" is "TwinRL/PickAndPlace-v0"."""
    return f"TwinRL/{''.join(word.capitalize() for word in task.split('_'))}-v0"


def register() -> None:
    """Makes every task known to Gymnasium, those of other packages too; importing this module does so."""
    for name in tasks.names():
        if (number := id_of(name)) not in gymnasium.registry:
            gymnasium.register(
                number,
                entry_point="twin.gym:GymTwin",
                vector_entry_point="twin.gym:GymVectorTwin",
                kwargs={"task": name},
            )


register()
