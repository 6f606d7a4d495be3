"""How demonstrations are carried over to new configurations."""

from dataclasses import dataclass

from protos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ExpansionSettings:
    """Defaults suit a table-top task at 10 Hz."""

    contact_radius_m: float = 0.06
    """Tool travel around a grasp, a visit or a release in which the demonstrated path is kept as it is."""
    planned: float = 0.3
    """Share of the free motions that are planned anew even where the demonstrated one would do; 0 keeps its style."""
    speed: float = 0.8
    """Of free motions, as a share of the largest action; what is left is for corrections."""
    clearance_m: float = 0.005
    """Free motions keep this far from the table and from every body."""
    attempts: int = 3
    """Demonstrations that are tried for one configuration, the nearest first."""
    tries_per_episode: float = 4.0
    """Give up when this many configurations were tried for every demonstration wanted."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("contact_radius_m", 0.0, 0.5),
            ("planned", 0.0, 1.0),
            ("speed", 0.05, 1.0),
            ("clearance_m", 0.0, 0.1),
            ("attempts", 1, 100),
            ("tries_per_episode", 1.0, 1000.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)}: {low} to {high}")
