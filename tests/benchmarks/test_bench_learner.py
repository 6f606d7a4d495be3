"""The learner benchmark: what it compares is the same update, and its arithmetic is counted right."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learner import run as learner
from benchmarks.learner.data import make_batch, make_demonstrations
from benchmarks.learner.flops import sft_flops, update_flops
from benchmarks.learner.plain import PlainLearner
from benchmarks.learner.run import LearnerBench
from benchmarks.policy.timing import threads
from learner.augment import torch_stream
from learner.rl import ActorSettings, Phase, RlAgent, UpdateSettings, complete
from learner.sft import SftTrainer, TrainSettings
from policy.model import Policy
from policy.normalize import Normalization
from policy.octo.settings import OctoSettings
from policy.settings import HeadSettings, PolicySettings

TINY = PolicySettings(octo=OctoSettings(side_px=32, wrist_px=32, dim=32, layers=3, heads=2, mlp_dim=48))
RELEASED = replace(
    TINY,
    octo=replace(TINY.octo, window=2, max_horizon=2),
    head=HeadSettings(network="conrft", width=32),
    proprio_encoder="mlp",
)


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def new_agent(policy=TINY, **actor):
    torch.manual_seed(3)
    network = Policy(policy)
    network.set_normalization(Normalization(torch.randn(25).numpy(), 0.5 + torch.rand(25).numpy()))
    return RlAgent(network, UpdateSettings(actor=ActorSettings(**actor)), seed=0)


def counted(call):
    """FLOPs as torch counts them, operator by operator."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_the_plain_update_is_the_same_update():
    agent = new_agent()
    batch = make_batch(TINY, agent.settings, 32)
    agent.fit_normalization(batch)
    plain = PlainLearner(agent)
    for step in range(10):
        phase = Phase(progress=step / 10)
        filled = complete(batch, TINY, agent.settings, phase, torch_stream(0, "noise", step))
        ours, theirs = agent.apply(filled, phase).metrics, plain.update(filled, phase.progress)
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    for mine, its in zip(agent.policy.head.net.parameters(), plain.head.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", [TINY, RELEASED], ids=["tiny", "released head"])
@pytest.mark.parametrize("backbone", ["frozen", "last", "full"])
def test_an_update_is_as_much_arithmetic_as_torch_counts(policy, backbone):
    agent = new_agent(policy, backbone=backbone)
    batch = make_batch(policy, agent.settings, 8)
    filled = complete(batch, policy, agent.settings, Phase(), torch_stream(0, "noise", 0))
    assert update_flops(agent.policy, agent.settings, 8) == counted(lambda: agent.gradients(filled, Phase()))


@pytest.mark.parametrize("policy", [TINY, RELEASED], ids=["tiny", "released head"])
def test_a_step_of_fine_tuning_is_as_much_arithmetic_as_torch_counts(policy):
    network, settings = Policy(policy), TrainSettings(batch_size=8)
    trainer = SftTrainer(network, make_demonstrations(network, settings, 2), settings)
    assert sft_flops(network, 8) == counted(trainer.advance)


def test_a_small_run_measures_every_kind_of_update():
    text = learner.run(LearnerBench(quick=True))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    updates = {line[0]: line for line in lines if len(line) == len(learner.COLUMNS)}
    assert list(updates) == [
        "update",
        "---",
        "written again, plainly",
        "tiny, cached readouts",
        "RLlib, in this process",
        "tiny, last block",
        "tiny, full backbone",
        "tiny, SFT step",
    ]
    shares = [line for line in lines if len(line) == 7 and line[0].startswith("tiny")]
    assert [sum(int(share) for share in line[2:]) for line in shares] == pytest.approx([100] * 3, abs=3)
