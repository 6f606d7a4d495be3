"""Simulator buffers as torch tensors, without a copy."""

import torch
from isaacgym.gymapi import Tensor

def wrap_tensor(gym_tensor: Tensor) -> torch.Tensor:
    """A view of the simulator's memory; it changes on every refresh."""

def unwrap_tensor(torch_tensor: torch.Tensor) -> Tensor:
    """The handle to pass back; the tensor must be contiguous."""
