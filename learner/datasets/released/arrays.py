"""The few functions that numpy's pickles call, done by hand with their arguments checked.

Names of numpy 1 and 2, and jax's, whose arrays are numpy's with a wrapper. An array's type is a boolean, an integer or
a float; others, Python objects above all, are refused.
"""

import math
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData

Array = NDArray[Any]
_TYPE = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_AXES = 32


class Name(Enum):
    """What a pickle may call."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    SCALAR = auto()
    ENCODE = auto()
    BYTES = auto()
    JAX_ARRAY = auto()
    SET_STATE = auto()
    """Not a name that a pickle can have; the instruction BUILD."""


NAMES = {
    "numpy.ndarray": Name.NDARRAY,
    "numpy.dtype": Name.DTYPE,
    **{f"numpy.{core}.multiarray._reconstruct": Name.RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Name.SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Name.FROM_BUFFER for core in ("core", "_core")},
    "_codecs.encode": Name.ENCODE,
    "builtins.bytes": Name.BYTES,
    "__builtin__.bytes": Name.BYTES,
    "jax._src.array._reconstruct_array": Name.JAX_ARRAY,
}


class ArrayType:
    """A dtype whose byte order comes with a later instruction."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if type(code) is not str or not _TYPE.fullmatch(code):
            shown = code[:20] if isinstance(code, str) else type(code).__name__
            raise CorruptData(f"an array of type {shown!r}; booleans, integers and floats are read")
        self._dtype: np.dtype[Any] = np.dtype(code)

    def set_order(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 3 or state[1] not in {"<", ">", "|", "="} or state[2] is not None:
            raise CorruptData("a type of an array with fields or a strange byte order")
        self._dtype = self._dtype.newbyteorder(state[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if kind is not Name.NDARRAY:
        raise CorruptData("an array of a class of its own")
    return np.empty(0, np.uint8)


def _set_state(array: Array, state: Any) -> None:
    """Gives the empty array its shape, type and content, in place: others may refer to it already."""
    if type(state) is not tuple or len(state) != 5 or array.size:
        raise CorruptData("an array with a state of another numpy")
    _, shape, kind, fortran, data = state
    dtype = _checked(data, kind, shape)
    content: Any = (1, shape, dtype, bool(fortran), bytes(data))
    array.__setstate__(content)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> Array:
    dtype = _checked(data, kind, shape)
    if order not in {"C", "F"}:
        raise CorruptData("an array in an order that is neither C nor F")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _scalar(kind: Any, data: Any) -> Any:
    return np.frombuffer(data, _checked(data, kind, ()))[0]


def _encode(text: Any, codec: Any) -> bytes:
    """How bytes are written in the protocols that have none."""
    if type(text) is not str or codec != "latin1":
        raise CorruptData("a text in another encoding than latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _jax_array(function: Any, arguments: Any, state: Any, _: Any) -> Array:
    if function is not Name.RECONSTRUCT or type(arguments) is not tuple:
        raise CorruptData("an array of jax that is none of numpy")
    array = _reconstruct(*arguments)
    _set_state(array, state)
    return array


def _refuse(*arguments: Any) -> Any:
    raise CorruptData("a call of numpy.ndarray, which numpy's own pickles do not make")


FUNCTIONS: dict[Name, Callable[..., Any]] = {
    Name.NDARRAY: _refuse,
    Name.DTYPE: ArrayType,
    Name.RECONSTRUCT: _reconstruct,
    Name.FROM_BUFFER: _from_buffer,
    Name.SCALAR: _scalar,
    Name.ENCODE: _encode,
    Name.BYTES: _no_bytes,
    Name.JAX_ARRAY: _jax_array,
    Name.SET_STATE: _set_state,
}


def _checked(data: Any, kind: Any, shape: Any) -> np.dtype[Any]:
    """The type, once type, shape and number of bytes are known to fit."""
    if not isinstance(kind, ArrayType) or not isinstance(data, bytes | bytearray):
        raise CorruptData("an array without a type or without bytes")
    if type(shape) is not tuple or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise CorruptData("an array of a strange shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise CorruptData(f"an array of shape {shape} and type {kind.dtype} in {len(data)} bytes")
    return kind.dtype
