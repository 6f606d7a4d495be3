"""What a check found."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line, and what to do when it is not well."""

    ok: bool
    found: str
    advice: str = ""
    """Empty when all is well."""


def well(found: str) -> Finding:
    """Nothing to do."""
    return Finding(ok=True, found=found)


def wanting(found: str, advice: str) -> Finding:
    """Something to do; several lines become one."""
    return Finding(ok=False, found=" ".join(found.split()), advice=advice)
