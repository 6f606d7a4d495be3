"""flax's msgpack files without flax.

Nested maps of names; an array is an ext value of code 1 whose payload is msgpack again: [shape, dtype name, C-order
bytes]; a numpy scalar is code 3, with the same payload. Lengths are checked against what is really there before
anything is allocated for them, and nothing in a file can name code to run.
"""

import math
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData, InputError

_ARRAY, _SCALAR = 1, 3
_DTYPES = frozenset(
    ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
)
_MAX_ITEMS = 65_536
_MAX_TEXT = 65_536
_MAX_DEPTH = 64
_PLACEHOLDER = "PLACEHOLDER://"
_CHUNKED = "__msgpack_chunked_array__"


def read_msgpack(path: Path) -> dict[str, Any]:
    """A file of nested maps, with numpy arrays at the leaves."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _unpacked(data, path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise CorruptData(f"{path}: not a flax msgpack file ({error})") from error


def leaves(tree: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a tree by their paths, `a/b/c`."""
    if prefix.count("/") > _MAX_DEPTH:
        raise CorruptData(f"{where}: maps nested more than {_MAX_DEPTH} deep")
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if not isinstance(name, str) or "/" in name:
            raise CorruptData(f"{where}: parameter {path!r} has an odd name")
        if isinstance(value, Mapping):
            if _CHUNKED in value:
                raise InputError(
                    f"{where}: parameter {path!r} is stored in chunks (over 1 GiB), which is not supported"
                )
            yield from leaves(value, where, f"{path}/")
        elif isinstance(value, str) and value.startswith(_PLACEHOLDER):
            raise InputError(
                f"{where}: parameter {path!r} lies outside this file, in tensorstore files ({value!r}: saved by "
                "several hosts); save the model again with OctoModel.save_pretrained on one host"
            )
        elif isinstance(value, np.ndarray):
            yield path, value
        else:
            raise CorruptData(f"{where}: parameter {path!r} is {type(value).__name__}, an array expected")


def _unpacked(data: mmap.mmap, path: Path) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(
            data,
            ext_hook=_extension,
            max_str_len=_MAX_TEXT,
            max_map_len=_MAX_ITEMS,
            max_array_len=_MAX_ITEMS,
        )
    except (msgpack.UnpackException, ValueError, TypeError) as error:
        raise CorruptData(f"{path}: not a flax msgpack file ({error or type(error).__name__})") from error
    if not isinstance(found, dict):
        raise CorruptData(f"{path}: not a flax msgpack file (a map expected, found {type(found).__name__})")
    return found


def _extension(code: int, payload: bytes) -> Any:
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"ext type {code}; arrays are {_ARRAY}, scalars {_SCALAR}")
    shape, dtype, data = msgpack.unpackb(payload, max_array_len=64, max_map_len=0, max_ext_len=0)
    array = _array(shape, dtype, data)
    return array if code == _ARRAY else array[()]


def _array(shape: Any, dtype: Any, data: Any) -> NDArray[Any]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"array of shape {shape!r}")
    widened = dtype == "bfloat16"
    if not widened and dtype not in _DTYPES:
        raise ValueError(f"array of dtype {dtype!r}; choose one of bfloat16, {', '.join(sorted(_DTYPES))}")
    kind = np.dtype("uint16" if widened else dtype)
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"array of shape {shape} and dtype {dtype} with {len(data)} bytes")
    array = np.frombuffer(data, kind).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if widened else array
