"""JSON files that come with a dataset."""

import json
from pathlib import Path
from typing import Any

from protos.errors import CorruptData, InputError

MAX_BYTES = 64 << 20


def read_json(path: Path) -> Any:
    """What the file holds. Raises InputError when it is missing, CorruptData when it is not JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CorruptData(f"{path}: {path.stat().st_size} bytes of JSON; at most {MAX_BYTES} are read")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path}: not JSON ({error})") from error
