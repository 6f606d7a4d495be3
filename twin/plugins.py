"""This module finds tasks, robots, policies by name: our own, those registered here, those of other packages.

A package joins with an entry point in its pyproject.toml. Its name is the thing's name, its value says where it is:

    [project.entry-points."twinrl.tasks"]
    place_on_pedestal = "my_package.pedestal:PlaceOnPedestal"

What is installed is known in every process of a run; a module is imported only when its name is asked for. Our own come
first. Names also come with recorded data, which never says what to import.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from protos.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """A registry knows the things of one kind by their names and loads one when it is asked for."""

    def __init__(self, kind: str, group: str, own: Mapping[str, str], opened: Callable[[str, Any], T]) -> None:
        """Keeps our own: names -> "module:object"; `opened` makes the thing of a name and its object."""
        self._kind, self._opened, self.group = kind, opened, group
        self._own = {name: EntryPoint(name, value, self.group) for name, value in own.items()}
        self._registered: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """Returns every name; nothing is imported for it."""
        others = (point.name for point in entry_points(group=self.group))
        return tuple(dict.fromkeys([*self._own, *self._registered, *others]))

    def register(self, name: str, thing: T) -> None:
        """Makes a thing known in this process. Raises InputError for a name that another one has."""
        if self._registered.get(name) != thing and name in self.names():
            raise InputError(f"{self._kind} {name!r} exists already; taken are {', '.join(self.names())}")
        self._registered[name] = thing

    def get(self, name: str) -> T:
        """Returns the thing called `name`. Raises InputError for an unknown name and for a package that is broken."""
        if name in self._registered:
            return self._registered[name]
        points = [self._own[name]] if name in self._own else list(entry_points(group=self.group, name=name))
        if not points:
            raise InputError(
                f"{self._kind} {name!r}: choose one of {', '.join(self.names())}; "
                f"packages add more by entry points of the group {self.group!r}"
            )
        owners = [point.dist.name if point.dist else "twinrl" for point in points]
        if len(points) > 1:
            raise InputError(f"{self._kind} {name!r} is in several packages: {', '.join(owners)}; keep one")
        try:
            return self._opened(name, points[0].load())
        except Exception as error:  # whatever a package raises, the one who asks for it is told
            said = " ".join(str(error).split())
            raise InputError(
                f"{self._kind} {name!r} of the package {owners[0]} ({points[0].value}) does not load: "
                f"{type(error).__name__}: {said}"
            ) from error
