"""This module maps TwinRL's episodes to RLDS and back: T + 1 steps, the last of which only holds the final observation.

    steps/observation/{side, wrist}       PNG
    steps/observation/proprio             float32 (25,)     steps/action   float32 (7,)
    steps/{reward, discount}              float32           steps/human    bool
    steps/{is_first, is_last, is_terminal}                  steps/language_instruction
    episode_metadata/{name, outcome, source, configuration}

Action, reward and flags of the last step have no meaning in RLDS; they are 0. `discount` is 0 where the
episode ended in success or failure, and 1 elsewhere. `twinrl.json` beside features.json marks the layout and holds the
action scale, the image sizes and the rate.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from learner.datasets.dataset import ActionScale, read_json
from learner.datasets.images import decode_image, encode_png, resize_all
from learner.datasets.rlds.description import FeatureSpec, blobs
from learner.datasets.rlds.example_pb2 import Feature
from learner.datasets.rlds.records import I64, Features
from learner.datasets.settings import MAX_HZ
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import ACTION_DIM, CONTROL_HZ, F32, PROPRIO_DIM, Configuration, Observation, Outcome, Schema, Source
from protos.settings import from_json, to_json

T = TypeVar("T")
MARK = "twinrl.json"
_TERMINAL = (Outcome.SUCCESS, Outcome.FAILURE)
_NUMBERS = {
    "steps/observation/proprio": ("float32", (PROPRIO_DIM,)),
    "steps/action": ("float32", (ACTION_DIM,)),
    "steps/reward": ("float32", ()),
    "steps/discount": ("float32", ()),
    "steps/human": ("bool", ()),
    "steps/is_first": ("bool", ()),
    "steps/is_last": ("bool", ()),
    "steps/is_terminal": ("bool", ()),
}
_TEXTS = ("name", "outcome", "source", "configuration")


def features_json(schema: Schema) -> dict[str, Any]:
    """Returns features.json for `tensorflow_datasets.builder_from_directory`."""
    leaves: dict[str, Any] = {name: _tensor(dtype, shape) for name, (dtype, shape) in _NUMBERS.items()}
    leaves["steps/observation/side"] = _image(schema.side_px)
    leaves["steps/observation/wrist"] = _image(schema.wrist_px)
    leaves["steps/language_instruction"] = _text()
    observation = {name.split("/")[-1]: leaf for name, leaf in leaves.items() if "/observation/" in name}
    step = {name.split("/")[-1]: leaf for name, leaf in leaves.items() if "/observation/" not in name}
    steps = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _nested({"observation": _nested(observation), **step}), "length": "-1"},
    }
    return _nested({"steps": steps, "episode_metadata": _nested({name: _text() for name in _TEXTS})})


def to_features(episode: Episode) -> dict[str, Sequence[bytes] | F32 | I64]:
    """Returns the values of an Example."""
    steps, seen = len(episode.action), episode.observation
    last = np.arange(steps + 1) == steps
    terminal = last & (episode.outcome in _TERMINAL)
    flags = {
        "human": np.append(episode.human, False),
        "is_first": np.arange(steps + 1) == 0,
        "is_last": last,
        "is_terminal": terminal,
    }
    texts = (episode.name, episode.outcome.value, episode.source.value, json.dumps(to_json(episode.configuration)))
    return {
        "steps/observation/side": [encode_png(image) for image in seen.side],
        "steps/observation/wrist": [encode_png(image) for image in seen.wrist],
        "steps/observation/proprio": seen.proprio.reshape(-1),
        "steps/action": np.append(episode.action.reshape(-1), np.zeros(ACTION_DIM, np.float32)),
        "steps/reward": np.append(episode.reward, np.float32(0)),
        "steps/discount": (~terminal).astype(np.float32),
        **{f"steps/{name}": flag.astype(np.int64) for name, flag in flags.items()},
        "steps/language_instruction": [episode.instruction.encode()] * (steps + 1),
        **{f"episode_metadata/{name}": [text.encode()] for name, text in zip(_TEXTS, texts, strict=True)},
    }


def episode_name(example: Features) -> str:
    """Reads the episode's name alone. Raises CorruptData."""
    return _one(example, "episode_metadata/name")


def from_features(example: Features, schema: Schema) -> Episode:
    """Returns the episode that `to_features` was given. Raises CorruptData."""
    missing = {*_NUMBERS, "steps/observation/side", "steps/observation/wrist"} - set(example)
    if missing:
        raise CorruptData(f"no {', '.join(sorted(missing))}")
    numbers = {
        name: FeatureSpec(kind="tensor", dtype=dtype, shape=shape, stepwise=True).numbers(example[name])
        for name, (dtype, shape) in _NUMBERS.items()
    }
    side = resize_all(map(decode_image, blobs(example["steps/observation/side"])), schema.side_px)
    wrist = resize_all(map(decode_image, blobs(example["steps/observation/wrist"])), schema.wrist_px)
    rows = {len(side), len(wrist), *map(len, numbers.values())}
    if len(rows) != 1 or rows <= {0, 1}:
        raise CorruptData(f"features of {sorted(rows)} steps")
    name, outcome, source, configuration = (_one(example, f"episode_metadata/{name}") for name in _TEXTS)
    try:
        return Episode(
            name=name,
            instruction=_one(example, "steps/language_instruction"),
            configuration=from_json(Configuration, json.loads(configuration)),
            observation=Observation(side=side, wrist=wrist, proprio=numbers["steps/observation/proprio"]),
            action=numbers["steps/action"][:-1],
            reward=numbers["steps/reward"][:-1],
            human=numbers["steps/human"][:-1].astype(bool),
            outcome=Outcome(outcome),
            source=Source(source),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptData(f"metadata of an episode that make no sense: {error}") from error


def stored_scale(folder: Path) -> ActionScale | None:
    """Reads the action scale of TwinRL's own data; returns None for foreign data. Raises CorruptData."""
    return _marked(folder, ActionScale, "action_scale", "no action scale")


def stored_rate(folder: Path) -> float:
    """Reads the rate of TwinRL's own data; control's in a folder of before it was written. Raises CorruptData."""
    path = folder / MARK
    hz = read_json(path).get("hz", CONTROL_HZ)
    if not isinstance(hz, int | float) or not 0 < hz <= MAX_HZ:
        raise CorruptData(f"{path}: hz {hz!r} is no rate")
    return float(hz)


def stored_schema(folder: Path) -> Schema | None:
    """Reads the image sizes of TwinRL's own data; returns None for foreign data. Raises CorruptData."""
    return _marked(folder, Schema, "schema", "no image sizes")


def _marked(folder: Path, kind: type[T], key: str, missing: str) -> T | None:
    path = folder / MARK
    if not path.is_file():
        return None
    try:
        return from_json(kind, read_json(path)[key], MARK)
    except (KeyError, TypeError, InputError) as error:
        raise CorruptData(f"{path}: {missing} in it ({error})") from error


def _one(example: Features, name: str) -> str:
    texts = FeatureSpec(kind="text", stepwise=False).strings(example.get(name, Feature()))
    if not texts:
        raise CorruptData(f"no {name}")
    return texts[0]


def _class(name: str) -> dict[str, Any]:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{name}"}


def _nested(features: Mapping[str, Any]) -> dict[str, Any]:
    return {**_class("features_dict.FeaturesDict"), "featuresDict": {"features": dict(features)}}


def _tensor(dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    kind = _class("tensor_feature.Tensor" if shape else "scalar.Scalar")
    return {**kind, "tensor": {"shape": _shape(shape), "dtype": dtype, "encoding": "none"}}


def _image(px: int) -> dict[str, Any]:
    content = {"shape": _shape((px, px, 3)), "dtype": "uint8", "encodingFormat": "png"}
    return {**_class("image_feature.Image"), "image": content}


def _text() -> dict[str, Any]:
    return {**_class("text_feature.Text"), "text": {}}


def _shape(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dimensions": [str(each) for each in shape]} if shape else {}
