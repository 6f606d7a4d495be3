"""A dataset described in a settings file, where its folder alone does not say enough.

{"path": "fractal/0.1.0", "rlds": {"state": ["steps/observation/base_pose_tool_reached", …], "hz": 3}}
"""

from dataclasses import dataclass, field
from pathlib import Path

from learner.datasets.episode import ActionScale
from learner.datasets.lerobot.mapping import LeRobotMapping
from learner.datasets.released.reader import ReleasedMapping
from learner.datasets.rlds.mapping import RldsMapping


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the data are and how to read them."""

    path: Path
    """Relative to the settings file."""
    instruction: str | None = None
    """In place of what is stored."""
    action_scale: ActionScale | None = None
    """In place of the stored or fitted one."""
    rlds: RldsMapping = field(default_factory=RldsMapping)
    lerobot: LeRobotMapping | None = None
    released: ReleasedMapping = field(default_factory=ReleasedMapping)
