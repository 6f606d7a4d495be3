"""Reads pickles that hold plain values and numpy arrays, and executes nothing.

A pickle is a program for a stack machine that may call any function it names. `pickletools.genops` takes it apart into
instructions without running them; here only those are carried out that build lists, dicts, tuples, strings, numbers
and numpy arrays. A name is never imported: six of them are known and done by hand, every other is refused.

    file ─► instructions ─► stack ─► the one value that is left
"""

import pickletools
import struct
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np

from learner.datasets.released.arrays import FUNCTIONS, NAMES, ArrayType, Name
from protos.errors import CorruptData

_COST_BYTES = 64
"""What an instruction may leave in memory, beside the bytes that it brings."""
_PIECE_BYTES = 1 << 20
_LONGEST_LINE = 1 << 16

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


def read_plain(file: IO[bytes], limit_bytes: int) -> Any:
    """The value of a pickle. Raises CorruptData, with what it wanted to import where it is not plain."""
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
    """A file that hands out no more than it has, and no more than a limit in all."""

    def __init__(self, file: IO[bytes], limit_bytes: int) -> None:
        self._file, self._limit, self._left, self._at = file, limit_bytes, limit_bytes, 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; memory grows with what is there, not with what is asked for."""
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
    """The stack, the memo, and the instructions that are carried out."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        """`spend` hears of bytes that are made of others, which the memo may bring any number of times."""
        self._spend = spend
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in _PUTS:
            self._memo[argument] = self._stack[-1]
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name not in {"PROTO", "FRAME", "STOP"}:
            self._do_special(name, argument)

    def result(self) -> Any:
        """What is left at the end."""
        if len(self._stack) != 1 or self._marks:
            raise CorruptData(f"{len(self._stack)} values are left where one should be")
        return self._stack[0]

    def _do_special(self, name: str, argument: Any) -> None:
        special: dict[str, Callable[[], None]] = {
            "MARK": lambda: self._marks.append(len(self._stack)),
            "LIST": lambda: self._stack.append(self._pop_marked()),
            "TUPLE": lambda: self._stack.append(tuple(self._pop_marked())),
            "DICT": lambda: self._stack.append(_filled({}, self._pop_marked())),
            "APPEND": lambda: self._extend(self._pop(1)),
            "APPENDS": lambda: self._extend(self._pop_marked()),
            "SETITEM": lambda: self._update(self._pop(2)),
            "SETITEMS": lambda: self._update(self._pop_marked()),
            "POP": lambda: self._stack.__delitem__(-1),
            "POP_MARK": lambda: self._pop_marked().clear(),
            "DUP": lambda: self._stack.append(self._stack[-1]),
            "MEMOIZE": lambda: self._memo.__setitem__(len(self._memo), self._stack[-1]),
            "GLOBAL": lambda: self._stack.append(_named(*str(argument).split(" ", 1))),
            "STACK_GLOBAL": lambda: self._stack.append(_named(*self._pop(2))),
            "REDUCE": lambda: self._made(_called(*self._pop(2))),
            "BUILD": lambda: self._made(_built(*self._pop(2))),
        }
        if name not in special:
            wanted = f" of {argument}" if name == "INST" else ""
            raise CorruptData(f"the instruction {name}{wanted}, which plain values and arrays do not need")
        special[name]()

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
    """Fills in an array or a type that was made empty, and gives it back."""
    if isinstance(target, ArrayType):
        target.set_order(state)
    elif isinstance(target, np.ndarray):
        FUNCTIONS[Name.SET_STATE](target, state)
    else:
        raise CorruptData("a state for what is neither an array nor a type")
    return target
