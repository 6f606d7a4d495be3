"""Checks that settings share."""

from protos.errors import InputError


def positive(settings: object, *names: str) -> None:
    """Refuses settings whose fields `names` are not greater than 0."""
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"{name}={getattr(settings, name)}: must be greater than 0")
