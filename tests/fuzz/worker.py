"""`python tests/fuzz/worker.py TARGET SEED FIRST LAST FOLDER` reads damaged inputs, one after the other.

It prints the number of a case before it begins it, and a JSON line for each that ends in anything but an error in one
line. The memory it may take is limited; the parent (`run`) ends it when it takes too long over a case.
"""

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
from mutations import Files, damaged
from targets import TARGETS, Target

from protos.errors import TwinRLError

SPARE_BYTES = 3 << 30
"""Address space that reading may take beyond what the imports took."""


def files_in(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def case(target: Target, whole: Files, seed: int, number: int) -> Files:
    """Returns the files of one case."""
    rng = np.random.default_rng([seed, number])
    if target.shell is not None and rng.random() < 0.5:
        return target.shell.closed(damaged(rng, target.shell.opened(whole)))
    return damaged(rng, whole)


def write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def outcome(target: Target, folder: Path) -> str:
    """Reads a case; returns "read", "refused", or the traceback of what is neither."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            target.read(folder)
    except (TwinRLError, OSError):  # every process tells the two in one line (`protos.process`)
        return "refused"
    except Exception:
        return traceback.format_exc()
    return "read"


def limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, taken + SPARE_BYTES))


def main(name: str, seed: int, first: int, last: int, folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target, home = TARGETS[name], folder / "whole"
    home.mkdir(parents=True)
    target.make(home)
    whole = files_in(home)
    shutil.rmtree(folder / "whole")
    write(folder / "case", whole)
    assert (found := outcome(target, folder / "case")) == "read", found
    limit_memory()
    for number in range(first, last):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        write(folder / "case", case(target, whole, seed, number))
        if (found := outcome(target, folder / "case")) not in ("read", "refused"):
            sys.stdout.write(json.dumps({"case": number, "found": found}) + "\n")
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"peak_mib": taken // 1024}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
