"""This benchmark measures an update, inside RLlib and outside, beside the same update written as plainly as possible.

twinrl bench learner               tiny policy, one thread per process; all presets on a GPU, if there is one
twinrl bench learner --full        also the backbone of octo-small on the CPU, with small batches: minutes
twinrl bench learner --no-remote   without learners in processes of their own, which need a Ray
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from benchmarks.learner import systems
from benchmarks.learner.parts import shares
from benchmarks.learner.systems import CPU, FULL, LAST, READOUTS, System, new_agent
from benchmarks.measure import hardware, table
from benchmarks.policy.timing import Clock, Matmul, in_turns, peak_bytes, threads
from learner.rl import BatchSettings
from protos.errors import InputError

COLUMNS = (
    "update",
    "rows",
    "CPU [ms]",
    "wall [ms]",
    "samples/s",
    "times the plain one",
    "peak memory [MB]",
    "GFLOP",
    "floor [ms]",
    "times the floor",
)


@dataclass(frozen=True, kw_only=True)
class LearnerBench:
    """Time and memory of RL updates and fine-tuning steps, beside a plain one and the arithmetic floor."""

    batch: int = BatchSettings().size
    """Rows on cached readouts; the default is the demo's."""
    picture_batch: int = 32
    """Rows where the backbone trains, and of fine-tuning."""
    small_batch: int = 4
    """The same for octo-small on the CPU."""
    full: bool = False
    """Measures octo-small on the CPU too, its head on readouts and with its backbone."""
    remote: bool = True
    """Measures two learners in processes of their own too."""
    turns: int = 7
    turn_s: float = 0.5
    """A turn lasts so long, or one update if that takes longer."""
    quick: bool = False
    """Shows that it runs, in seconds: two short turns, no remote learners, no GPU."""

    def __post_init__(self) -> None:
        for name in ("batch", "picture_batch", "small_batch", "turns", "turn_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")


def run(settings: LearnerBench) -> str:
    """Markdown: a table of updates, one of where their time goes and, with a GPU, one of updates there."""
    if settings.quick:
        settings = replace(settings, turns=2, turn_s=0.02, batch=16, picture_batch=4, remote=False)
    texts = [f"Machine: {hardware()}, torch {torch.__version__}."]
    with threads(1):
        texts += [on_cpu(settings), _shares(settings)]
        if torch.cuda.is_available() and not settings.quick:
            device = torch.device("cuda")
            texts.append(_table(systems.on_gpu(device, settings.batch, settings.picture_batch), settings, device))
        else:
            texts.append("On a GPU: not measured.")
    return "\n\n".join(texts)


def on_cpu(settings: LearnerBench) -> str:
    """The demo's update four times: plainly, as it is, inside RLlib here and in two processes; then larger ones."""
    rows, pictured = settings.batch, settings.picture_batch
    with ExitStack() as stack:
        chosen = [systems.written_again(rows), systems.rl("tiny", READOUTS, rows)]
        chosen += [
            stack.enter_context(systems.inside_rllib(rows, learners))
            for learners in ((0, 2) if settings.remote else (0,))
        ]
        chosen += [systems.rl("tiny", LAST, pictured), systems.rl("tiny", FULL, pictured)]
        chosen.append(systems.fine_tuning("tiny", pictured))
        if settings.full:
            few = settings.small_batch
            chosen += [systems.rl("small", READOUTS, rows), systems.rl("small", LAST, few)]
            chosen += [systems.rl("small", FULL, few), systems.fine_tuning("small", few)]
        return _table(chosen, settings, CPU)


def _shares(settings: LearnerBench) -> str:
    agents = {
        "tiny, cached readouts": (new_agent("tiny", READOUTS), settings.batch),
        "tiny, last block": (new_agent("tiny", LAST), settings.picture_batch),
        "tiny, full backbone": (new_agent("tiny", FULL), settings.picture_batch),
    }
    return shares(agents, turns=settings.turns, turn_s=settings.turn_s)


def _table(chosen: Sequence[System], settings: LearnerBench, device: torch.device) -> str:
    """Measures systems in turns with each other and with a large product of matrices."""
    clock: Clock = "wall_ms" if device.type == "cuda" else "cpu_ms"
    matmul = Matmul.on(device)
    found = in_turns(
        {system.name: system.call for system in chosen} | {"matmul": matmul.call},
        turns=settings.turns,
        turn_s=settings.turn_s,
        device=device,
        clocks={system.name: system.clock for system in chosen if system.clock is not None},
    )
    rate, plain = matmul.flops_per_ms(found["matmul"], clock=clock), found[chosen[0].name]
    rows = []
    for system in chosen:
        timings, floor_ms = found[system.name], system.flops / rate
        rows.append(
            (
                system.name,
                system.rows,
                *timings.cells(),
                f"{1e3 * system.rows / timings.wall_ms:,.0f}",
                f"{timings.cpu_ms / plain.cpu_ms:.2f}" if system.beside_plain else "–",
                "–" if system.clock else f"{peak_bytes(system.call, device) / 1e6:,.1f}",
                f"{system.flops / 1e9:,.3f}",
                f"{floor_ms:,.2f}",
                f"{getattr(timings, clock) / floor_ms:.1f}",
            )
        )
    attained = f"A large product of matrices, {device.type}, float32: {rate / 1e6:,.1f} GFLOP/s."
    return f"{attained}\n\n{table(COLUMNS, rows)}"
