"""This module reads settings from JSON into frozen dataclasses, and writes them.

Every process of a run reads one JSON file of settings. An unknown key is an error that names the nearest known one, a
value of the wrong type an error that names its place and the valid choices. Neither library makes this shorter: msgspec
ignores unknown keys of dataclasses and refuses unions of two, cattrs turns "2" into 2, and the errors of both lack the
value and the choices.
"""

import difflib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from protos.errors import InputError
from protos.files import read_json, write_durably

T = TypeVar("T")
FORMAT = 2
"""Format of the files that `save_settings` writes; counts up when older files cannot be read any more."""
WRITTEN_BY = {1: "0.1", FORMAT: "0.2"}
"""Version of TwinRL that writes a format; files of format 1 do not name it."""
_CONTAINERS: tuple[tuple[Any, Any, str], ...] = (
    (Path, str | Path, "a path"),
    *((kind, list | tuple, "a list") for kind in (tuple, list, Sequence)),
    *((kind, Mapping, "an object") for kind in (dict, Mapping)),
)


def positive(settings: object, *names: str) -> None:
    """Raises InputError for settings whose fields `names` are not greater than 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"{name}={getattr(settings, name)}: must be greater than 0")


def bounded(settings: object, prefix: str, bounds: Mapping[str, tuple[float, float]], *, note: str = "") -> None:
    """Raises InputError for settings with a field beyond its `bounds`; NaN is.

    The message names the field with `prefix` before it, and ends in `note`.
    """
    for name, (low, high) in bounds.items():
        if not low <= getattr(settings, name) <= high:
            raise InputError(f"{prefix}{name}={getattr(settings, name)}: must be {low:g} to {high:g}{note}")


def between(settings: object, name: str, low: float, high: float, *fields: str) -> None:
    """Raises InputError for settings called `name` whose `fields` are not `low` to `high`."""
    bounded(settings, f"{name}.", dict.fromkeys(fields, (low, high)))


def to_json(settings: Any) -> dict[str, Any]:
    """Returns a settings dataclass as plain JSON values."""
    return json.loads(json.dumps(asdict(settings), default=_plain))


def anchored(settings: T, folder: Path = Path()) -> T:
    """Returns settings whose paths, given relative to `folder`, mean the same from every working directory."""
    return _anchored(settings, folder)


def _anchored(value: Any, folder: Path) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        return replace(value, **_anchored(own, folder))
    if isinstance(value, tuple | list):
        return type(value)(_anchored(each, folder) for each in value)
    if isinstance(value, Mapping):
        return {key: _anchored(each, folder) for key, each in value.items()}
    return (folder / value).absolute() if isinstance(value, Path) else value


def save_settings(settings: Any, path: Path) -> Path:
    """Writes a settings file; returns its path."""
    write_durably(path, [json.dumps({"format": FORMAT, **to_json(settings)}, indent=2).encode() + b"\n"])
    return path


def load_settings(kind: type[T], path: Path, *, written: bool = False) -> T:
    """Reads a settings file written by hand or by `save_settings`.

    With `written` it must be of `save_settings`, as in the folder of a run. Raises InputError for a file of another
    format, and names the version of TwinRL that reads it.
    """
    data = read_json(path, what="settings file")
    if isinstance(data, dict):
        found = data.pop("format", 1 if written else FORMAT)
        if found != FORMAT:
            known = WRITTEN_BY.get(found) if isinstance(found, int) else None
            writer = f"TwinRL {known}" if known else "a later TwinRL"
            raise InputError(
                f"{path}: written by {writer}, this is TwinRL {WRITTEN_BY[FORMAT]}, which cannot go on with it; "
                f"open it with {writer}"
            )
    return from_json(kind, data, where=path.name)


def from_json(kind: type[T], data: Mapping[str, Any], where: str = "settings") -> T:
    """Builds the dataclass `kind`; missing keys take their defaults.

    A `kind` with a function `from_older` reads data of earlier versions: it returns them in today's form.
    """
    assert is_dataclass(kind), f"{kind} is not a dataclass"
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected the settings of {kind.__name__}, got {data!r}")
    data = getattr(kind, "from_older", lambda given: given)(data)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for key in data:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
            raise InputError(f"{where}.{key}: no such setting; nearest is {near[0]!r} (of {', '.join(names)})")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value, where)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where}={value!r}: choose one of {', '.join(map(repr, arguments))}")
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _convert_enum(kind, value, where)
    for container, plain, name in _CONTAINERS:
        if (kind is container or origin is container) and not isinstance(value, plain):
            raise InputError(f"{where}={value!r}: expected {name}")
    if kind is Path:
        return Path(value)
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin in (list, Sequence):
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin in (dict, Mapping):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _convert_scalar(kind, value, where)


def _convert_enum(kind: type[Enum], value: Any, where: str) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(repr(each.value) for each in kind)
        raise InputError(f"{where}={value!r}: choose one of {choices}") from error


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    errors = []
    for kind in kinds:
        try:
            return _convert(kind, value, where)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[-1])


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise InputError(f"{where}={value!r}: expected {len(arguments)} values")
    return tuple(
        _convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}={value!r}: expected {kind.__name__}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
