"""This module reads the original's recorded numbers, where the shared data is at hand."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
PARITY = DATA / "octo" / "octo_parity_public.npz"
needs_recorded = pytest.mark.skipif(
    not PARITY.exists(), reason=f"no {PARITY}; set TWINRL_SHARED_DATA to the folder of shared test data"
)


def recorded() -> dict[str, np.ndarray]:
    return np.load(PARITY)


def linear(arrays, path: str, name: str) -> dict[str, torch.Tensor]:
    """A flax Dense (also of attention, with its heads apart) as a torch Linear called `name`."""
    kernel, bias = arrays[f"{path}/kernel"], arrays[f"{path}/bias"]
    outputs = bias.size
    return {
        f"{name}.weight": torch.from_numpy(kernel.reshape(-1, outputs).T.copy()),
        f"{name}.bias": torch.from_numpy(bias.reshape(-1)),
    }


def norm(arrays, path: str, name: str) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": torch.from_numpy(arrays[f"{path}/scale"]),
        f"{name}.bias": torch.from_numpy(arrays[f"{path}/bias"]),
    }
