"""The updates that are measured, each on batches of its own."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks.learner.data import make_batch, make_demonstrations
from benchmarks.learner.flops import sft_flops, update_flops
from benchmarks.learner.plain import PlainLearner
from benchmarks.measure import cpu_seconds
from benchmarks.policy.timing import Call
from learner.optimization import ComputeSettings
from learner.rl import ActorSettings, Phase, RlAgent, UpdateSettings
from learner.rl.rllib import RllibUpdater
from learner.sft import SftTrainer, TrainSettings
from policy.model import Policy
from policy.settings import preset

CPU = torch.device("cpu")
READOUTS, LAST, FULL = (
    UpdateSettings(),
    UpdateSettings(actor=ActorSettings(backbone="last")),
    UpdateSettings(actor=ActorSettings(backbone="full")),
)
TRAINED = {"frozen": "cached readouts", "last": "last block", "full": "full backbone"}
WAYS = {
    "f32": UpdateSettings(),
    "bf16": UpdateSettings(compute=ComputeSettings(precision="bf16")),
    "bf16 compiled": UpdateSettings(compute=ComputeSettings(precision="bf16", compile=True)),
}
"""Settings of a GPU; only precision and compilation count."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One kind of update."""

    name: str
    rows: int
    call: Call
    flops: int
    beside_plain: bool = False
    """True for the update that was written again, on as many rows."""
    clock: Callable[[], float] | None = None
    """CPU seconds of all processes that work for it, where this one is not alone."""


def rl(name: str, update: UpdateSettings, rows: int, device: torch.device = CPU, *, way: str = "") -> System:
    """The agent's own update; `update` says how much of the preset `name` trains."""
    agent = new_agent(name, update, device)
    batch = make_batch(preset(name), update, rows)
    return System(
        name=f"{name}, {TRAINED[update.actor.backbone]}{way}",
        rows=rows,
        call=lambda: agent.update(batch, Phase()),
        flops=update_flops(agent.policy, update, rows),
        beside_plain=device == CPU and (name, update) == ("tiny", READOUTS),
    )


def written_again(rows: int) -> System:
    """The same on cached readouts, plainly."""
    agent = new_agent("tiny", READOUTS)
    plain, batch = PlainLearner(agent), make_batch(preset("tiny"), READOUTS, rows)
    flops = update_flops(agent.policy, READOUTS, rows)
    return System(name="written again, plainly", rows=rows, call=lambda: plain.update(batch), flops=flops)


@contextmanager
def inside_rllib(rows: int, learners: int) -> Iterator[System]:
    """The same in RLlib's learners: in this process, or in so many of their own."""
    policy, batch = new_policy("tiny"), make_batch(preset("tiny"), READOUTS, rows)
    flops = update_flops(policy, READOUTS, rows)
    with closing(RllibUpdater(policy, READOUTS, seed=0, learners=learners)) as updater:
        yield System(
            name=f"RLlib, {learners} processes" if learners else "RLlib, in this process",
            rows=rows,
            call=partial(updater.update, batch, Phase()),
            flops=flops,
            beside_plain=True,
            clock=partial(cpu_seconds, [os.getpid(), *updater.pids()]) if learners else None,
        )


def fine_tuning(name: str, rows: int, device: torch.device = CPU) -> System:
    """A step of SFT of the whole policy."""
    policy, settings = new_policy(name).to(device), TrainSettings(batch_size=rows)
    trainer = SftTrainer(policy, make_demonstrations(policy, settings, 4), settings)
    return System(name=f"{name}, SFT step", rows=rows, call=trainer.advance, flops=sft_flops(policy, rows))


def on_gpu(device: torch.device, rows: int, picture_rows: int) -> list[System]:
    """All presets on a GPU, in each of `WAYS`."""
    systems = []
    for name in ("tiny", "small", "base"):
        for way, how in WAYS.items():
            for update in (READOUTS, LAST, FULL):
                chosen = replace(update, compute=how.compute)
                of = rows if update == READOUTS else picture_rows
                systems.append(rl(name, chosen, of, device, way=f", {way}"))
        systems.append(fine_tuning(name, picture_rows, device))
    return systems


def new_agent(name: str, update: UpdateSettings, device: torch.device = CPU) -> RlAgent:
    """An agent with the preset `name`."""
    return RlAgent(new_policy(name).to(device), update, seed=0)


def new_policy(name: str) -> Policy:
    """The same numbers every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(preset(name))
