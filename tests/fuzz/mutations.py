"""This module damages files: bytes, lengths, words of JSON and TOML.

A target names the files of one valid input. A case is the input with one to three files' worth of damage:

    truncated    cut off anywhere, or empty
    flipped      bits, bytes and runs of bytes changed
    oversized    numbers replaced by the largest of their width, pieces repeated, text made long
    confused     a value of JSON or TOML replaced by one of another type; one file's bytes in another's place
"""

import json
import re

import numpy as np

Files = dict[str, bytes]
NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1)
DEEP = json.loads("[" * 200 + "]" * 200)
ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 10_000,
    "../../x",
    "é\u0000",
    [],
    {},
    DEEP,
)
ODD_TOML = (
    "true",
    "-1",
    "9223372036854775807",
    "1e308",
    "nan",
    "inf",
    '""',
    '"' + "x" * 5000 + '"',
    "[]",
    "{}",
    "[[1]]",
)


def damaged(rng: np.random.Generator, files: Files) -> Files:
    """Returns the files with damage in one to three places."""
    result = dict(files)
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(sorted(result)))
        result[name] = _damaged_file(rng, name, result)
    return result


def _damaged_file(rng: np.random.Generator, name: str, files: Files) -> bytes:
    data = files[name]
    if name.endswith((".json", ".jsonl")) and rng.random() < 0.7:
        return _confused_json(rng, data)
    if name.endswith(".toml") and rng.random() < 0.7:
        return _confused_toml(rng, data)
    kinds = (_truncated, _flipped, _overwritten, _repeated, _removed)
    if rng.random() < 0.03:
        return files[str(rng.choice(sorted(files)))]
    return kinds[int(rng.integers(len(kinds)))](rng, data)


def _place(rng: np.random.Generator, data: bytes) -> int:
    """Returns an offset: heads of files say more than their middle, so half of them lie in the first 256 bytes."""
    return int(rng.integers(0, min(len(data), 256) + 1) if rng.random() < 0.5 else rng.integers(0, len(data) + 1))


def _truncated(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _flipped(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            at = min(_place(rng, data), len(changed) - 1)
            changed[at] ^= 1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    return bytes(changed)


def _overwritten(rng: np.random.Generator, data: bytes) -> bytes:
    width, at = int(rng.choice((2, 4, 8))), _place(rng, data)
    number = int(rng.choice(np.array(NUMBERS, object))) % 2 ** (8 * width)
    word = number.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    return data[:at] + word + data[at + width :]


def _repeated(rng: np.random.Generator, data: bytes) -> bytes:
    first, last = sorted((_place(rng, data), _place(rng, data)))
    piece = data[first : min(last, first + 4096)]
    return data[:last] + piece * int(rng.integers(1, 5)) + data[last:]


def _removed(rng: np.random.Generator, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def _confused_json(rng: np.random.Generator, data: bytes) -> bytes:
    """Replaces, removes or renames a value anywhere in the first JSON text of the data."""
    line, end, rest = data.partition(b"\n") if not data.startswith((b"{\n", b"[\n")) else (data, b"", b"")
    try:
        content = json.loads(line)
    except ValueError:
        return _flipped(rng, data)
    return json.dumps(_confused(rng, content)).encode() + end + rest


def _confused(rng: np.random.Generator, value: object) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(sorted(value)))
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if rng.random() < 0.05:
            return value | {key + "x": value[key]}
        return value | {key: _confused(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = int(rng.integers(len(value)))
        return [*value[:at], _confused(rng, value[at]), *value[at + 1 :]]
    return ODD[int(rng.integers(len(ODD)))]


def _confused_toml(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.decode(errors="replace").split("\n")
    entries = [index for index, line in enumerate(lines) if re.match(r"\s*[\w.\"-]+\s*=", line)]
    if not entries:
        return _flipped(rng, data)
    at = int(rng.choice(entries))
    lines[at] = "" if rng.random() < 0.1 else lines[at].split("=")[0] + "= " + str(rng.choice(ODD_TOML))
    return "\n".join(lines).encode()
