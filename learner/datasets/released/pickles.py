"""This module reads pickles that hold plain values and numpy arrays, and executes nothing.

A pickle is a program for a stack machine that may call any function it names. `pickletools.genops` splits it into
instructions without running them; only those are carried out here that build lists, dicts, tuples, strings, numbers and
numpy arrays. A name is never imported: the few functions that numpy's pickles call (numpy 1 and 2, and jax's wrapper of
them) are done by hand with their arguments checked, every other name is refused. An array's type is a boolean, an
integer or a float.

    file ─► instructions ─► stack ─► the one value that is left
"""

import math
import pickletools
import re
import struct
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData

Array = NDArray[Any]

_COST_BYTES = 64
"""Memory that an instruction may take, beside its own bytes."""
_PIECE_BYTES = 1 << 20
_LONGEST_LINE = 1 << 16
_TYPE = re.compile(r"b1|[iu][1248]|f[248]")
_MOST_AXES = 32

_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


class Name(Enum):
    """A name that a pickle may call."""

    NDARRAY = auto()
    DTYPE = auto()
    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    SCALAR = auto()
    ENCODE = auto()
    BYTES = auto()
    JAX_ARRAY = auto()
    SET_STATE = auto()
    """The instruction BUILD; no name in a pickle stands for it."""


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


def read_plain(file: IO[bytes], limit_bytes: int) -> Any:
    """Reads the value of a pickle. Raises CorruptData, which names what a pickle that is not plain would import."""
    source = _Source(file, limit_bytes)
    machine = _Machine(source.spend)
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], source)):
            source.spend(_COST_BYTES)
            machine.do(opcode.name, argument)
        return machine.result()
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError, struct.error) as error:
        raise CorruptData(f"not a pickle, or damaged, at byte {source.tell()}: {error}") from error


class _Source:
    """A source limits what is read from a file to what the file has and to a limit in all."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._file, self._limit, self._left, self._at = file, limit_bytes, limit_bytes, 0

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; memory grows with the file, not with the request."""
        if size <= _PIECE_BYTES:
            return self._taken(self._file.read(max(0, size)))
        whole = bytearray()
        while len(whole) < size:
            piece = self._taken(self._file.read(min(_PIECE_BYTES, size - len(whole))))
            if not piece:
                break
            whole += piece
        return bytes(whole)

    def readline(self) -> bytes:
        return self._taken(self._file.readline(_LONGEST_LINE))

    def tell(self) -> int:
        return self._at

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise CorruptData(f"more than limit_bytes={self._limit} of memory, at byte {self._at}")

    def _taken(self, data: bytes) -> bytes:
        self._at += len(data)
        self.spend(len(data))
        return data


class _Machine:
    """A machine carries out instructions on a stack and a memo."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        """Starts empty; `spend` is called with the size of each array or bytes that is made of others."""
        self._spend = spend
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        push, pop, pop_marked = self._stack.append, self._pop, self._pop_marked
        self._instructions: dict[str, Callable[[Any], object]] = {
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(_PUSHED, push),
            **{name: partial(lambda value, _: push(value), value) for name, value in _CONSTANTS.items()},
            **{name: partial(lambda make, _: push(make()), make) for name, make in _EMPTY.items()},
            **{name: partial(lambda count, _: push(tuple(pop(count))), count) for name, count in _TUPLES.items()},
            **dict.fromkeys(_PUTS, lambda index: self._memo.__setitem__(index, self._stack[-1])),
            **dict.fromkeys(_GETS, lambda index: push(self._memo[index])),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "LIST": lambda _: push(pop_marked()),
            "TUPLE": lambda _: push(tuple(pop_marked())),
            "DICT": lambda _: push(_filled({}, pop_marked())),
            "APPEND": lambda _: self._extend(pop(1)),
            "APPENDS": lambda _: self._extend(pop_marked()),
            "SETITEM": lambda _: self._update(pop(2)),
            "SETITEMS": lambda _: self._update(pop_marked()),
            "POP": lambda _: self._stack.__delitem__(-1),
            "POP_MARK": lambda _: pop_marked(),
            "DUP": lambda _: push(self._stack[-1]),
            "GLOBAL": lambda name: push(_named(*str(name).split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(_named(*pop(2))),
            "REDUCE": lambda _: self._made(_called(*pop(2))),
            "BUILD": lambda _: self._made(_built(*pop(2))),
        }

    def do(self, name: str, argument: Any) -> None:
        """Carries out one instruction. Raises CorruptData for one that plain values do not need."""
        if name not in self._instructions:
            wanted = f" of {argument}" if name == "INST" else ""
            raise CorruptData(f"the instruction {name}{wanted}, which plain values and arrays do not need")
        self._instructions[name](argument)

    def result(self) -> Any:
        """Returns the value that is left at the end."""
        if len(self._stack) != 1 or self._marks:
            raise CorruptData(f"{len(self._stack)} values are left where one should be")
        return self._stack[0]

    def _made(self, value: Any) -> None:
        self._spend(value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0)
        self._stack.append(value)

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) - count < (self._marks[-1] if self._marks else 0):
            raise CorruptData("an instruction that finds too little on the stack")
        popped = self._stack[-count:]
        del self._stack[-count:]
        return popped

    def _pop_marked(self) -> list[Any]:
        mark = self._marks.pop()
        popped = self._stack[mark:]
        del self._stack[mark:]
        return popped

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise CorruptData("items are appended to what is no list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not dict:
            raise CorruptData("items are put into what is no dict")
        _filled(self._stack[-1], items)


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Puts keys and values, one after the other, into a dict."""
    if len(items) % 2 or not all(type(key) is str for key in items[::2]):
        raise CorruptData("a dict whose keys are not strings")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _named(module: Any, name: Any) -> Name:
    if type(module) is not str or type(name) is not str or f"{module}.{name}" not in NAMES:
        raise CorruptData(f"it wants to import {str(module)[:80]}.{str(name)[:80]}; only numpy arrays are read")
    return NAMES[f"{module}.{name}"]


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or type(arguments) is not tuple:
        raise CorruptData("a call of what is no function")
    return FUNCTIONS[function](*arguments)


def _built(target: Any, state: Any) -> Any:
    """Fills in an array or a type that was made empty, and returns it."""
    if isinstance(target, ArrayType):
        target.set_order(state)
    elif isinstance(target, np.ndarray):
        FUNCTIONS[Name.SET_STATE](target, state)
    else:
        raise CorruptData("a state for what is neither an array nor a type")
    return target


class ArrayType:
    """An array type is a dtype whose byte order comes with a later instruction."""

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
    """Returns bytes that were written as text, in protocols without bytes."""
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
    """Returns the type after checking that type, shape and number of bytes fit together."""
    if not isinstance(kind, ArrayType) or not isinstance(data, bytes | bytearray):
        raise CorruptData("an array without a type or without bytes")
    if type(shape) is not tuple or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise CorruptData("an array of a strange shape")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise CorruptData(f"an array of shape {shape} and type {kind.dtype} in {len(data)} bytes")
    return kind.dtype
