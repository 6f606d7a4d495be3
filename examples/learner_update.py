"""This example fine-tunes a policy on a dataset folder, which it first makes with the task's expert.

python examples/learner_update.py [DATASET FOLDER]       RLDS, LeRobotDataset v3 or the pickles released with the paper
"""

import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from actors.sim.demonstrations import expert_episodes
from learner.datasets import ActionScale, make_writer, open_dataset
from learner.sft import OptimizerSettings, TrainSettings, train_sft
from policy.model import Policy
from policy.settings import preset
from protos.schema import Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import synthetic_scene


def make(folder: Path) -> None:
    """Writes four episodes as an RLDS dataset."""
    scene, task = synthetic_scene(), tasks.get("pick_and_place")
    metres, radians = task.action_scale
    with closing(VectorTwin(scene, task, n=4, domain=Domain(), seed=0, schema=Schema())) as twin:
        episodes = expert_episodes(twin, {"A": 4}, scene=scene.name, seed=0)
    writer = make_writer("rlds", folder, Schema(), action_scale=ActionScale(metres=metres, radians=radians))
    with closing(writer):
        for episode in episodes:
            writer.add(episode)


losses: list[float] = []


def show(step: int, metrics: dict[str, float]) -> None:
    """Prints the mean loss of behaviour cloning of every ten updates."""
    losses.append(metrics["bc"])
    if step % 10 == 0:
        print(f"updates {step - 9} to {step}: loss {sum(losses[-10:]) / 10:.3f}")


with TemporaryDirectory() as temporary:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
    if folder == Path(temporary):
        make(folder)
    dataset = open_dataset(folder, Schema())
    print(f"{dataset.format} dataset of {len(dataset)} episodes")
    torch.manual_seed(0)
    policy = Policy(preset("tiny"))
    print(f"policy of {sum(values.numel() for values in policy.parameters()):,} parameters")
    settings = TrainSettings(steps=30, batch_size=16, optimizer=OptimizerSettings(warmup=5))
    train_sft(policy, list(dataset), settings, on_step=show)
