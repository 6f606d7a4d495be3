"""This module reads the records of an RLDS dataset for an inspection: its numbers, and the headers of its images."""

import io
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from learner.datasets.inspection.raw import Camera, Raw, RawEpisode
from learner.datasets.rlds.description import FeatureSpec, blobs, read_features, read_info
from learner.datasets.rlds.records import Features, decode_example, read_records
from learner.datasets.settings import RldsMapping
from protos.errors import CorruptData, InputError, TwinRLError
from protos.schema import F64

_OUTCOMES = ("episode_metadata/outcome", "steps/reward", "steps/is_terminal", "steps/is_last")
_MOST_NUMBERS = 256
_STEPS = "steps/"


def raw_rlds(folder: Path, mapping: RldsMapping) -> Raw:
    """Describes a folder with features.json. Raises InputError, CorruptData."""
    info = read_info(folder)
    shards = info.shards(folder, mapping.split)
    features = read_features(folder / "features.json")
    wide = tuple(name for name, spec in features.items() if _is_wide(spec))
    return Raw(
        format="rlds",
        name=info.name,
        episodes=sum(length for _, length in shards),
        hz=None,
        cameras=_cameras(features, shards),
        names=dict.fromkeys(wide, ()),
        outcome_features=tuple(name for name in _OUTCOMES if name in features),
        read=lambda count: islice(_episodes(shards, features, wide, mapping), count),
    )


def _is_wide(spec: FeatureSpec) -> bool:
    """Tells whether a feature holds several numbers a step."""
    return (
        spec.kind == "tensor"
        and spec.stepwise
        and spec.dtype.startswith(("float", "int"))
        and len(spec.shape) == 1
        and 1 < spec.shape[0] <= _MOST_NUMBERS
    )


def _is_image(spec: FeatureSpec) -> bool:
    pixels = 3
    return spec.stepwise and (spec.kind == "image" or (spec.dtype == "uint8" and len(spec.shape) == pixels))


def _cameras(features: Mapping[str, FeatureSpec], shards: list[tuple[Path, int]]) -> tuple[Camera, ...]:
    example: Features = {}
    problem = ""
    for path, _ in shards[:1]:
        try:
            example = next((decode_example(record.payload) for record in read_records(path)), {})
        except TwinRLError as error:
            problem = str(error)
    return tuple(_camera(name, spec, example, problem) for name, spec in features.items() if _is_image(spec))


def _camera(name: str, spec: FeatureSpec, example: Features, problem: str) -> Camera:
    from PIL import Image

    rows, columns = (spec.shape[0], spec.shape[1]) if len(spec.shape) > 1 else (0, 0)
    if spec.kind != "image" or name not in example:
        return Camera(name=name, storage="images", width=columns, height=rows, problem=problem)
    try:
        with Image.open(io.BytesIO(blobs(example[name])[0]), formats=("JPEG", "PNG")) as image:
            size, codec = image.size, str(image.format).lower()
        return Camera(name=name, storage="images", width=size[0], height=size[1], codec=codec)
    except (CorruptData, IndexError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Camera(name=name, storage="images", width=columns, height=rows, problem=f"first image: {error}")


def _episodes(
    shards: list[tuple[Path, int]], features: Mapping[str, FeatureSpec], wide: tuple[str, ...], mapping: RldsMapping
) -> Iterator[RawEpisode]:
    number = 0
    for path, length in shards:
        try:
            for record in islice(read_records(path), length):
                yield _episode(f"episode {number}", record.payload, features, wide, mapping)
                number += 1
        except (CorruptData, OSError) as error:  # what follows in this file cannot be told apart any more
            yield RawEpisode(place=f"episode {number}", steps=0, problem=str(error))
            number += 1


def _episode(
    place: str, payload: bytes, features: Mapping[str, FeatureSpec], wide: tuple[str, ...], mapping: RldsMapping
) -> RawEpisode:
    try:
        example = decode_example(payload)
        numbers = {name: _rows(features[name], example[name]) for name in wide if name in example}
    except (CorruptData, InputError) as error:
        return RawEpisode(place=place, steps=0, problem=str(error))
    return RawEpisode(
        place=place,
        steps=max(map(len, numbers.values()), default=0),
        numbers=numbers,
        instruction=_text(example, features, mapping),
    )


def _rows(spec: FeatureSpec, feature: Any) -> F64:
    return np.asarray(spec.numbers(feature), np.float64)


def _text(example: Features, features: Mapping[str, FeatureSpec], mapping: RldsMapping) -> str:
    for name in mapping.instruction:
        if name in features and name in example:
            try:
                return next((text for text in features[name].strings(example[name]) if text), "")
            except TwinRLError:
                return ""
    return ""
