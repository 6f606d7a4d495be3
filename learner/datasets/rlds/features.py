"""What `features.json` of tensorflow_datasets says about the features of an Example.

{"steps": Dataset({"observation": {"image_0": Image}}), "episode_metadata": {…}}
    ─► {"steps/observation/image_0": FeatureSpec(kind="image", stepwise=True), "episode_metadata/…": …}
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learner.datasets.json_files import read_json
from learner.datasets.rlds.example import Values, decode_feature
from protos.errors import CorruptData, InputError

Kind = Literal["tensor", "image", "text", "other"]
_NUMBERS = ("bool", "float", "int", "uint")
_MOST_AXES = 8


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """One leaf of the nesting."""

    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    """Of one step's value; −1 where it is not fixed."""
    encoding: str = "none"
    stepwise: bool
    """One value per step, not one per episode."""

    def numbers(self, data: memoryview) -> NDArray[Any]:
        """Values (rows, *shape): rows are the steps, or one for the episode. Raises CorruptData, InputError."""
        if self.kind != "tensor" or not self.dtype.startswith(_NUMBERS) or self.encoding != "none":
            raise InputError(f"numbers are wanted, this is {self}")
        if min(self.shape, default=1) < 1:
            raise InputError(f"numbers of a fixed shape are wanted, this one's is {self.shape}")
        values = decode_feature(data)
        size = math.prod(self.shape)
        if isinstance(values, list) or not len(values) or len(values) % size or len(self.shape) > _MOST_AXES:
            raise CorruptData(f"{len(values)} values do not fill rows of shape {self.shape[:_MOST_AXES]}")
        return values.reshape(-1, *self.shape)

    def strings(self, data: memoryview) -> list[str]:
        """Texts, one per step or one for the episode. Raises CorruptData, InputError."""
        if self.kind != "text" and self.dtype not in {"string", "object"}:
            raise InputError(f"a text is wanted, this is {self}")
        try:
            return [str(value, "utf-8") for value in self.blobs(data)]
        except UnicodeDecodeError as error:
            raise CorruptData("a text that is not UTF-8") from error

    def blobs(self, data: memoryview) -> list[memoryview]:
        """Bytes as they are stored. Raises CorruptData."""
        values: Values = decode_feature(data)
        if isinstance(values, np.ndarray):
            raise CorruptData(f"bytes are wanted, these are {len(values)} numbers")
        return values


def read_features(path: Path) -> dict[str, FeatureSpec]:
    """The leaves of a features.json by their name in an Example. Raises CorruptData, InputError."""
    return dict(_leaves(read_json(path), "", stepwise=False, where=path))


def _leaves(node: Any, name: str, *, stepwise: bool, where: Path) -> Iterator[tuple[str, FeatureSpec]]:
    if not isinstance(node, Mapping):
        raise CorruptData(f"{where}: {name or 'the top'} is not a feature")
    try:
        if "featuresDict" in node:
            for key, child in node["featuresDict"]["features"].items():
                yield from _leaves(child, f"{name}/{key}".removeprefix("/"), stepwise=stepwise, where=where)
        elif "sequence" in node and not stepwise and name == "steps":
            yield from _leaves(node["sequence"]["feature"], name, stepwise=True, where=where)
        else:
            yield name, _leaf(node, stepwise)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptData(f"{where}: {name or 'the top'} is not a feature ({error!r})") from error


def _leaf(node: Mapping[str, Any], stepwise: bool) -> FeatureSpec:
    kind: Kind
    for kind in ("tensor", "image", "text"):
        if kind in node:
            content = node[kind]
            return FeatureSpec(
                kind=kind,
                dtype=content.get("dtype", "string" if kind == "text" else "uint8"),
                shape=tuple(int(each) for each in content.get("shape", {}).get("dimensions", ())),
                encoding=content.get("encoding", "none"),
                stepwise=stepwise,
            )
    return FeatureSpec(kind="other", stepwise=stepwise)
