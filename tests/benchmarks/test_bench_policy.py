"""The policy benchmark: it runs, its arithmetic is counted right, and its shortcuts change nothing."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.policy import run as policy
from benchmarks.policy.flops import octo_flops, tokens
from benchmarks.policy.run import CPU, PolicyBench
from benchmarks.policy.timing import Matmul, Timing, Timings, peak_bytes, threads
from policy.octo.model import Octo
from policy.octo.settings import OctoSettings
from protos.errors import InputError

LIGHT = OctoSettings(side_px=32, wrist_px=64, dim=32, layers=2, heads=2, mlp_dim=48)
STEMS = OctoSettings(
    side_px=32,
    wrist_px=48,
    dim=32,
    layers=3,
    heads=2,
    mlp_dim=64,
    window=2,
    max_horizon=3,
    stem="small_stem",
    stem_features=(32, 32, 64, 32),
    stem_out=40,
    goal_images=True,
    language_tokens=5,
    repeat_language=True,
    readout_tokens=2,
)


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def images(octo, n):
    shape = (n, octo.window)
    side, wrist = (torch.zeros(*shape, px, px, 3, dtype=torch.uint8) for px in (octo.side_px, octo.wrist_px))
    return side, wrist, torch.zeros(n, octo.language_tokens, octo.language_dim)


def rows(text):
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return [line for line in lines if line[0] != "---"]


@pytest.mark.parametrize("octo", [LIGHT, STEMS], ids=["light", "small stem"])
def test_a_pass_is_as_much_arithmetic_as_torch_counts(octo):
    network = Octo(octo).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*images(octo, 3))
    assert octo_flops(octo, 3) == counter.get_total_flops()


@pytest.mark.parametrize("octo", [LIGHT, STEMS], ids=["light", "small stem"])
def test_the_sequence_is_as_long_as_the_network_makes_it(octo):
    network, lengths = Octo(octo).eval(), []
    network.transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    network(*images(octo, 1))
    assert lengths == [tokens(octo)]


def test_without_the_shortcut_the_last_layer_computes_every_token():
    assert octo_flops(STEMS, 1) < octo_flops(STEMS, 1, readout_only=False)
    one_layer = replace(STEMS, layers=1)
    assert octo_flops(STEMS, 1) - octo_flops(one_layer, 1) == 2 * (
        octo_flops(replace(STEMS, layers=2), 1, readout_only=False) - octo_flops(one_layer, 1, readout_only=False)
    )


def test_peak_memory_counts_what_is_alive_at_a_time():
    x = torch.zeros(250_000)  # 1 MB
    assert peak_bytes(lambda: (x + 1) + (x + 2), CPU) == 3_000_000
    assert peak_bytes(lambda: ((x + 1).sum(), (x + 2).sum()), CPU) < 1_100_000
    assert peak_bytes(lambda: x.view(500, 500)[0], CPU) == 0


def test_ratios_are_taken_turn_by_turn():
    slow, fast = (
        Timings(turns=tuple(Timing(cpu_ms=k * ms, wall_ms=ms) for ms in (1.0, 10.0, 3.0))) for k in (4.0, 2.0)
    )
    assert slow.times(fast) == [2.0, 2.0, 2.0]
    assert slow.cpu_ms == 12.0
    matmul = Matmul.on(CPU)
    assert matmul.flops_per_ms(fast) == matmul.flops / 6.0


def test_a_small_run_measures_every_size_and_the_shortcuts_are_exact():
    text = policy.run(PolicyBench(quick=True, parts=("forward", "shortcuts"), windows=(1, 2), batches=(1,)))
    found = rows(text)
    assert [row[:3] for row in found if row[0] == "tiny"] == [["tiny", "1", "1"], ["tiny", "2", "1"]]
    differences = {row[1]: float(row[5]) for row in found if row[0] == "forward"}
    assert differences.keys() == {"last layer in full", "mask made each time"}
    assert max(differences.values()) <= 1e-5


def test_wrong_sizes_are_said():
    with pytest.raises(InputError, match="batches=\\(0,\\)"):
        PolicyBench(batches=(0,))
