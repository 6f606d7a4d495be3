"""Writing MJCF attributes."""


def numbers(*values: float) -> str:
    """Numbers of an attribute, separated by spaces."""
    return " ".join(f"{value:.12g}" for value in values)
