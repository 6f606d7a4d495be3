"""This module holds the result of one check."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding is one line, and what to do where something is wrong."""

    ok: bool
    found: str
    advice: str = ""
    """Empty when all is well."""


def well(found: str) -> Finding:
    """Returns a finding that asks for nothing."""
    return Finding(ok=True, found=found)


def wanting(found: str, advice: str) -> Finding:
    """Returns a finding with advice; several lines become one."""
    return Finding(ok=False, found=" ".join(found.split()), advice=advice)
