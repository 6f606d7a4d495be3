"""This benchmark measures a forward pass and the worth of each of its shortcuts.

twinrl bench policy                    one CPU thread; on a GPU too, if there is one
twinrl bench policy --full             also batches of 16 of the large presets on the CPU
twinrl bench policy --parts shortcuts  one table
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from benchmarks.measure import hardware, table
from benchmarks.policy.flops import octo_flops, tokens
from benchmarks.policy.shortcuts import shortcuts
from benchmarks.policy.timing import Call, Clock, Matmul, in_turns, peak_bytes, threads
from policy.octo.model import Octo
from policy.octo.settings import OctoSettings
from policy.settings import preset
from protos.errors import InputError

Preset = Literal["tiny", "small", "base"]
Part = Literal["forward", "shortcuts", "gpu"]
CPU = torch.device("cpu")
COLUMNS = (
    "preset",
    "window",
    "batch",
    "tokens",
    "CPU [ms]",
    "wall [ms]",
    "peak memory [MB]",
    "GFLOP",
    "floor [ms]",
    "times the floor",
)


@dataclass(frozen=True, kw_only=True)
class PolicyBench:
    """Time and memory of forward passes for each preset, beside the arithmetic floor, and of what shortens them."""

    presets: tuple[Preset, ...] = ("tiny", "small", "base")
    windows: tuple[int, ...] = (1, 2)
    batches: tuple[int, ...] = (1, 16)
    full: bool = False
    """Measures on the CPU the larger batches of small and base: several seconds per pass."""
    parts: tuple[Part, ...] = ("forward", "shortcuts", "gpu")
    turns: int = 7
    turn_s: float = 0.3
    """A turn lasts so long, or one call if that takes longer."""
    quick: bool = False
    """Shows that it runs, in seconds: the tiny preset, two short turns."""

    def __post_init__(self) -> None:
        if self.turns < 1 or not self.turn_s > 0:
            raise InputError(f"turns={self.turns}, turn_s={self.turn_s}: must be above 0")
        for name in ("windows", "batches"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise InputError(f"{name}={getattr(self, name)}: one or more numbers from 1 on")


@dataclass(frozen=True, kw_only=True)
class Size:
    """One forward pass."""

    name: Preset
    octo: OctoSettings
    batch: int

    def call(self, model: Callable[..., Tensor], device: torch.device) -> Call:
        """The pass on random images."""
        octo, shape = self.octo, (self.batch, self.octo.window)
        side, wrist = (
            torch.randint(0, 256, (*shape, px, px, 3), dtype=torch.uint8, device=device)
            for px in (octo.side_px, octo.wrist_px)
        )
        language = torch.randn(self.batch, octo.language_tokens, octo.language_dim, device=device)
        return torch.inference_mode()(lambda: model(side, wrist, language))


def run(settings: PolicyBench) -> str:
    """Markdown: a table of forward passes, one of shortcuts and, with a GPU, one of passes there."""
    if settings.quick:
        settings = replace(settings, presets=("tiny",), turns=2, turn_s=0.02)
    texts = [f"Machine: {hardware()}, torch {torch.__version__}."]
    with threads(1):
        if "forward" in settings.parts:
            texts.append(forward_on_cpu(settings))
        if "shortcuts" in settings.parts:
            of = "tiny" if settings.quick else "small"
            texts.append(shortcuts(preset(of), turns=settings.turns, turn_s=settings.turn_s))
    if "gpu" in settings.parts:
        texts.append(forward_on_gpu(settings) if torch.cuda.is_available() else "No GPU is at hand: none was measured.")
    return "\n\n".join(texts)


def forward_on_cpu(settings: PolicyBench) -> str:
    """The passes of all sizes, which take turns with each other and with a large product of matrices."""
    chosen = [size for size in sizes(settings) if size.batch == 1 or size.name == "tiny" or settings.full]
    models = _models(settings.presets, CPU)
    calls = {size: size.call(models[size.name], CPU) for size in chosen}
    return _table([(size, "f32", call) for size, call in calls.items()], settings, CPU)


def forward_on_gpu(settings: PolicyBench) -> str:
    """The passes of all sizes in float32 and bfloat16, plain and compiled."""
    device = torch.device("cuda")
    models = _models(settings.presets, device)
    rows = []
    for size in sizes(settings):
        for way, kind in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            model = models[size.name]
            for name, network in ((way, model), (f"{way} compiled", torch.compile(model))):
                rows.append((size, name, _under_autocast(size.call(network, device), device, kind)))
    return _table(rows, settings, device)


def sizes(settings: PolicyBench) -> list[Size]:
    """All combinations of presets, windows and batches."""
    return [
        Size(name=name, octo=_with_window(preset(name).octo, window), batch=batch)
        for name in settings.presets
        for window in settings.windows
        for batch in settings.batches
    ]


def _with_window(octo: OctoSettings, window: int) -> OctoSettings:
    return replace(octo, window=window, max_horizon=max(window, octo.max_horizon))


def _models(names: Sequence[Preset], device: torch.device) -> dict[Preset, Octo]:
    """One network for all windows of a preset: positions are there for the longest."""
    return {name: Octo(replace(preset(name).octo, max_horizon=10)).eval().to(device) for name in names}


def _under_autocast(call: Call, device: torch.device, kind: torch.dtype) -> Call:
    def cast() -> object:
        with torch.autocast(device.type, kind, enabled=kind is not torch.float32):
            return call()

    return cast


def _table(rows: Sequence[tuple[Size, str, Call]], settings: PolicyBench, device: torch.device) -> str:
    """Measures all rows in turns; on a GPU there is no CPU column, and a way of computing instead."""
    gpu = device.type == "cuda"
    clock: Clock = "wall_ms" if gpu else "cpu_ms"
    kinds = {"f32": torch.float32} | ({"bf16": torch.bfloat16} if gpu else {})
    matmuls = {way: Matmul.on(device, kind) for way, kind in kinds.items()}
    names = [f"{size.name} {size.octo.window} {size.batch} {way}" for size, way, _ in rows]
    calls = {name: call for name, (_, _, call) in zip(names, rows, strict=True)}
    calls |= {f"matmul {way}": matmul.call for way, matmul in matmuls.items()}
    found = in_turns(calls, turns=settings.turns, turn_s=settings.turn_s, device=device)
    rates = {way: matmul.flops_per_ms(found[f"matmul {way}"], clock=clock) for way, matmul in matmuls.items()}
    cells = []
    for name, (size, way, call) in zip(names, rows, strict=True):
        flops, timings = octo_flops(size.octo, size.batch), found[name]
        floor_ms = flops / rates[way.partition(" ")[0]]
        spent = getattr(timings, clock)
        cells.append(
            (
                f"{size.name}, {way}" if gpu else size.name,
                size.octo.window,
                size.batch,
                tokens(size.octo),
                *timings.cells()[1 if gpu else 0 :],
                f"{peak_bytes(call, device) / 1e6:,.1f}",
                f"{flops / 1e9:,.2f}",
                f"{floor_ms:,.2f}",
                f"{spent / floor_ms:.1f}",
            )
        )
    columns = [column for column in COLUMNS if not (gpu and column.startswith("CPU"))]
    attained = ", ".join(f"{way} {rate / 1e6:,.1f} GFLOP/s" for way, rate in rates.items())
    return f"A large product of matrices: {attained}.\n\n{table(columns, cells)}"
