"""`python -m twinrl.doctor PROBE`: one probe in this process; its finding is the last line, as JSON."""

import json
import sys
from dataclasses import asdict

from protos.errors import TwinRLError
from twinrl.doctor.finding import Finding, wanting
from twinrl.doctor.probes import EXTRAS, PROBES


def main() -> None:
    sys.stdout.write("\n" + json.dumps(asdict(_finding(sys.argv[1]))) + "\n")
    sys.stdout.flush()


def _finding(name: str) -> Finding:
    try:
        return PROBES[name]()
    except ModuleNotFoundError as error:
        package = (error.name or name).split(".")[0]
        extra = EXTRAS.get(package)
        return wanting(
            f"the package {package} is not installed", f"pip install '{f'twinrl[{extra}]' if extra else package}'"
        )
    except TwinRLError as error:
        return wanting(str(error), "see the message")
    except Exception as error:  # whatever a damaged library raises is the finding
        return wanting(f"{type(error).__name__}: {error}", "reinstall it with this project's constraints.txt")


if __name__ == "__main__":
    main()
