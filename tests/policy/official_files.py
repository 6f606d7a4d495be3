"""This module writes checkpoint folders as the original does, of any content."""

import json
from pathlib import Path

import msgpack
import numpy as np
from parity_files import model_config, modules, official_params


def packed(tree):
    """flax's msgpack: arrays as ext values of code 1."""

    def extension(value):
        if isinstance(value, np.ndarray):
            payload = msgpack.packb([value.shape, value.dtype.name, value.tobytes()])
            return msgpack.ExtType(1, payload)
        raise TypeError(type(value))

    return msgpack.packb(tree, default=extension, strict_types=True)


def nested(params):
    """`a/b/c` → maps of maps."""
    tree = {}
    for path, leaf in params.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = np.ascontiguousarray(leaf) if isinstance(leaf, np.ndarray) else leaf
    return tree


def write_checkpoint(folder: Path, params, config, statistics=None, steps=(300,)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics or {}))
    for step in steps:
        file = folder / str(step) / "default" / "checkpoint"
        file.parent.mkdir(parents=True)
        file.write_bytes(packed(nested(params)))
    return folder


def small_checkpoint(folder: Path, **changes):
    """A whole checkpoint of a few thousand numbers."""
    given = {"params": official_params(*modules()), "config": model_config(), **changes}
    return write_checkpoint(folder, **given)
