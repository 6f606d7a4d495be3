"""Where networks are computed."""

from typing import Literal

import torch

from protos.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


def choose(device: Device) -> torch.device:
    """The device that a setting names; "auto" is a GPU where torch sees one."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("device='cuda': torch sees no GPU here; choose 'cpu' or 'auto'")
    return torch.device("cuda" if available and device != "cpu" else "cpu")
