"""This module writes small foreign RLDS datasets, with a tf.train.Example that is defined here once more."""

import io
import json
from pathlib import Path

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from PIL import Image

from learner.datasets.rlds.records import framed

_CORE = "tensorflow_datasets.core.features."


def _example_class():
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, label, type_name) in enumerate(fields, 1):
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return made

    one, many = Field.LABEL_OPTIONAL, Field.LABEL_REPEATED
    message("BytesList", ("value", Field.TYPE_BYTES, many, None))
    message("FloatList", ("value", Field.TYPE_FLOAT, many, None))
    message("Int64List", ("value", Field.TYPE_INT64, many, None))
    lists = [(name, Field.TYPE_MESSAGE, one, f".t.{kind}List") for name, kind in KINDS.items()]
    feature = message("Feature", *lists)
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", Field.TYPE_MESSAGE, many, ".t.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type=Field.TYPE_MESSAGE, label=one, type_name=".t.Feature")
    message("Example", ("features", Field.TYPE_MESSAGE, one, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


KINDS = {"bytes_list": "Bytes", "float_list": "Float", "int64_list": "Int64"}
Example = _example_class()


def example(features):
    """Encodes an Example; each feature is a list of bytes, floats or integers."""
    message = Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(message.features.feature[name], kind).value.extend(values)
    return message.SerializeToString()


def tensor(dtype, *shape):
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    kind = {"pythonClassName": f"{_CORE}tensor_feature.Tensor"}
    return {**kind, "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"}}


def image(px):
    content = {"shape": {"dimensions": [str(px), str(px), "3"]}, "dtype": "uint8", "encodingFormat": "png"}
    return {"pythonClassName": f"{_CORE}image_feature.Image", "image": content}


def text():
    return {"pythonClassName": f"{_CORE}text_feature.Text", "text": {}}


def nested(features):
    return {
        "pythonClassName": f"{_CORE}features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def stepwise(features):
    return {"pythonClassName": f"{_CORE}dataset_feature.Dataset", "sequence": {"feature": features, "length": "-1"}}


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FEATURES = {
    "observation": nested({"image_0": image(24), "wrist_image": image(16), "state": tensor("float32", 7)}),
    "action": tensor("float32", 7),
    "reward": tensor("float32"),
    "is_last": tensor("bool"),
    "is_terminal": tensor("bool"),
    "language_instruction": text(),
}


def episode(rng, steps=5, **changed):
    """Returns values of a foreign episode of FEATURES, as Bridge has them."""
    images = {"image_0": 24, "wrist_image": 16}
    values = {
        f"steps/observation/{name}": [png(rng.integers(0, 256, (px, px, 3), np.uint8)) for _ in range(steps)]
        for name, px in images.items()
    }
    action = rng.uniform(-0.02, 0.02, (steps, 7)).astype(np.float32)
    action[:, 6] = rng.integers(0, 2, steps)
    return {
        **values,
        "steps/observation/state": rng.uniform(-1, 1, (steps, 7)).astype(np.float32).reshape(-1).tolist(),
        "steps/action": action.reshape(-1).tolist(),
        "steps/reward": [0.0] * steps,
        "steps/is_last": [0] * (steps - 1) + [1],
        "steps/is_terminal": [0] * steps,
        "steps/language_instruction": [b"stack the cups"] * steps,
        **changed,
    }


def write_dataset(folder: Path, shards, features=FEATURES, **info):
    """Writes a dataset folder; `shards` are lists of episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(nested({"steps": stepwise(nested(features))})))
    for index, episodes in enumerate(shards):
        file = folder / f"cups-train.tfrecord-{index:05d}-of-{len(shards):05d}"
        file.write_bytes(b"".join(framed(example(values)) for values in episodes))
    split = {"name": "train", "shardLengths": [str(len(episodes)) for episodes in shards], "numBytes": "1"}
    record = {"name": "cups", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split], **info}
    (folder / "dataset_info.json").write_text(json.dumps(record))
    return folder
