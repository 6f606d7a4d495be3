"""The optimizer: torch's own to the bit, without torch's compiler."""

import subprocess
import sys

import torch
from torch import nn
from torch.optim import AdamW

from learner.optimization import adamw, load_optimizer, optimizer_tensors

STEPS, CUT = 12, 5
FRESH = """
import sys
import torch
from learner.optimization import adamw, load_optimizer, optimizer_tensors

number = torch.nn.Parameter(torch.ones(3))
optimizer = adamw([([number], 0.1)], 0.0, "cpu")
number.sum().backward()
optimizer.step()
optimizer.zero_grad()
load_optimizer(optimizer, optimizer_tensors(optimizer))
sys.exit("torch._dynamo" in sys.modules)
"""


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((40, 30), (7,))]


def trained(optimizer, numbers, steps):
    for _ in range(steps):
        sum((number**3).sum() for number in numbers).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [number.detach().clone() for number in numbers]


def test_the_optimizer_is_torchs_own_to_the_bit_also_when_it_goes_on():
    theirs, ours = parameters(), parameters()
    reference = AdamW([{"params": [p], "lr": lr} for p, lr in zip(theirs, (0.1, 0.01), strict=True)], fused=True)
    expected = trained(reference, theirs, STEPS)
    groups = [([ours[0]], 0.1), ([ours[1]], 0.01)]
    first = adamw(groups, 0.01, "cpu")
    trained(first, ours, CUT)
    second = adamw(groups, 0.01, "cpu")
    load_optimizer(second, {name: tensor.clone() for name, tensor in optimizer_tensors(first).items()})
    assert all(map(torch.equal, trained(second, ours, STEPS - CUT), expected))


def test_steps_are_made_without_torchs_compiler():
    assert subprocess.run([sys.executable, "-c", FRESH], timeout=120, check=False).returncode == 0
