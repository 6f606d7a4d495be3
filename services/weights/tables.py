"""What a version may claim: every size is checked here before anything is allocated for it.

A table that cannot be read raises CorruptData; one that can and asks for more than this process gives, InputError.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from services.weights.tensors import ALIGNMENT, WIRE_DTYPES, entry_bytes

MAX_PARTS = 64
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 64
MAX_SETTINGS_CHARACTERS = 1 << 20
MAX_NAME_CHARACTERS = 512
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes beyond which a version is refused."""

    max_part_bytes: int = 1 << 30
    max_version_bytes: int = 1 << 31


DEFAULT_LIMITS = Limits()


def check_version(version: pb.WeightVersion, limits: Limits) -> None:
    """Refuses a table before anything is allocated for it. Raises InputError and CorruptData."""
    if version.number < 1 or not 1 <= len(version.parts) <= MAX_PARTS:
        raise CorruptData(
            f"version {version.number} with {len(version.parts)} parts: needs a number and 1 to {MAX_PARTS}"
        )
    where = f"version {version.number}"
    if not math.isfinite(version.published_unix_s):
        raise CorruptData(f"{where}: published at {version.published_unix_s}")
    read_settings(version)
    tensors = sum(len(part.tensors) for part in version.parts)
    if tensors > MAX_TENSORS:
        raise InputError(f"{where} has {tensors} tensors; the limit is {MAX_TENSORS}")
    for part in version.parts:
        _check_part(part, limits)
    total = sum(part.size for part in version.parts)
    if total > limits.max_version_bytes:
        raise InputError(f"{where} has {total} bytes; the limit is max_version_bytes={limits.max_version_bytes}")
    if len({part.name for part in version.parts}) != len(version.parts):
        raise CorruptData(f"{where} names a part twice")
    if len({(part.sha256, part.size) for part in version.parts}) != len({part.sha256 for part in version.parts}):
        raise CorruptData(f"{where} gives one sha256 two sizes")


def read_settings(version: pb.WeightVersion) -> dict[str, Any]:
    """The settings that came with a version. Raises CorruptData when they are not a JSON object."""
    if len(version.settings_json) > MAX_SETTINGS_CHARACTERS:
        raise InputError(
            f"version {version.number}: {len(version.settings_json)} characters of settings; "
            f"the limit is {MAX_SETTINGS_CHARACTERS}"
        )
    try:
        settings = json.loads(version.settings_json)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"version {version.number}: its settings are not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise CorruptData(f"version {version.number}: its settings are no JSON object")
    return settings


def _check_part(part: pb.WeightPart, limits: Limits) -> None:
    if part.size > limits.max_part_bytes:
        raise InputError(
            f"part {part.name[:80]!r} has {part.size} bytes; the limit is max_part_bytes={limits.max_part_bytes}"
        )
    if len(part.sha256) != 64 or not _HEX.issuperset(part.sha256):
        raise CorruptData(f"part {part.name[:80]!r}: sha256 {part.sha256[:80]!r} is not 64 hex digits")
    if len(part.name) > MAX_NAME_CHARACTERS:
        raise InputError(f"part {part.name[:80]!r}…: its name is longer than {MAX_NAME_CHARACTERS} characters")
    end = 0
    for entry in part.tensors:
        end = _check_entry(entry, part, end)
    if len({entry.name for entry in part.tensors}) != len(part.tensors):
        raise CorruptData(f"part {part.name[:80]!r} names a tensor twice")


def _check_entry(entry: pb.TensorEntry, part: pb.WeightPart, begin: int) -> int:
    """Where the tensor ends; it must begin behind the one before it, so that a part decodes to a bounded size."""
    where = f"tensor {entry.name[:80]!r} of part {part.name[:80]!r}"
    if entry.dtype not in WIRE_DTYPES:
        raise CorruptData(f"{where}: unknown dtype {entry.dtype[:80]!r}")
    if len(entry.shape) > MAX_DIMENSIONS:
        raise CorruptData(f"{where}: {len(entry.shape)} dimensions, numpy has at most {MAX_DIMENSIONS}")
    end = entry.offset + entry_bytes(entry)
    if entry.offset % ALIGNMENT or entry.offset < begin or end > part.size:
        raise CorruptData(
            f"{where}: {list(entry.shape)[:8]} {entry.dtype} at byte {entry.offset} does not fit between byte {begin} "
            f"and the part's end at {part.size}"
        )
    return end
