"""Checks a compose file against the compose specification's schema: `python scripts/check_compose.py FILE`.

Prints every violation on one line with its place in the file and exits with 1; needs no Docker.
"""

import json
import sys
from pathlib import Path

import jsonschema
import yaml

SCHEMA = Path(__file__).resolve().parents[1] / "deploy" / "compose-spec.json"


def violations(path: Path) -> list[str]:
    """One line per violation, empty for a valid file."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        return [f"not YAML: {' '.join(str(error).split())}"]
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def main() -> int:
    path = Path(sys.argv[1])
    found = violations(path)
    for line in found:
        sys.stderr.write(f"{path}: {line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
