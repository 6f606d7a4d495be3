"""This module is `twinrl import-octo`: an official Octo checkpoint becomes a policy folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import nn

from policy import checkpoint
from policy.language import encode_instruction
from policy.model import Policy
from policy.octo.official import (
    LANGUAGE,
    OfficialCheckpoint,
    build_t5,
    datasets,
    imported_policy,
    read_checkpoint,
    save_language,
    try_policy,
)
from protos.errors import InputError
from protos.folders import owned

_SENTENCE = "Put the cube on the disc."
_NAMED = 4
"""Number of datasets that the summary names."""


@dataclass(frozen=True, kw_only=True)
class ImportOcto:
    """Read a checkpoint folder of octo-models/octo and write a policy folder.

    The folder holds config.json, dataset_statistics.json and <step>/default/checkpoint, as on the Hugging Face hub
    (download it first: rail-berkeley/octo-small-1.5, octo-base-1.5 and their like).
    """

    checkpoint: tyro.conf.Positional[Path]
    """The official checkpoint folder."""
    out: Path
    """Policy folder to write."""
    step: int | None = None
    """Step of the checkpoint; the newest otherwise."""
    side_px: int | None = None
    """Side camera's images of another size: its positional embeddings are interpolated."""
    wrist_px: int | None = None
    """Image size of the wrist camera."""
    dataset: str | None = None
    """Dataset whose statistics turn predictions into actions; needed when the checkpoint has several."""
    tokenizer: Path | None = None
    """Local folder of the t5-base tokenizer, which no checkpoint holds."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(ImportOcto, prog="twinrl import-octo", args=arguments)
    sys.stdout.write("\n".join(run(command)) + "\n")
    return 0


def run(command: ImportOcto) -> list[str]:
    """Writes the folder; returns lines on what was read and what is missing."""
    with owned(command.out, "twinrl import-octo"):
        return _imported(command)


def _imported(command: ImportOcto) -> list[str]:
    if checkpoint.exists(command.out):
        raise InputError(f"--out {command.out}: holds a policy already; name a new folder")
    source = read_checkpoint(command.checkpoint, command.step)
    policy = imported_policy(source, side_px=command.side_px, wrist_px=command.wrist_px, dataset=command.dataset)
    encoder = build_t5(source.params)
    octo = policy.settings.octo
    try_policy(policy.eval(), torch.zeros(octo.language_tokens, octo.language_dim))
    if command.tokenizer is not None:
        save_language(encoder, command.tokenizer, command.out / LANGUAGE)
        try_policy(policy, _language(policy, command.out / LANGUAGE))
    origin = {"folder": source.folder.name, "step": source.step, "statistics": source.statistics}
    checkpoint.save_policy(command.out, policy, octo=origin)
    checkpoint.load_policy(command.out)

    return [*_summary(source, policy, encoder), *_missing(policy, command.tokenizer), f"wrote {command.out}"]


def _language(policy: Policy, folder: Path) -> torch.Tensor:
    """Returns the tokens of a sentence by the language folder as it is on disk."""
    settings = replace(policy.settings, language_folder=str(folder))
    return torch.from_numpy(encode_instruction(_SENTENCE, settings))


def _summary(source: OfficialCheckpoint, policy: Policy, encoder: nn.Module) -> list[str]:
    octo = policy.settings.octo
    sizes = [sum(p.numel() for p in module.parameters()) for module in (policy.octo, policy.head, encoder)]
    names = list(datasets(source))
    shown = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    return [
        f"read {source.folder} step {source.step}: {len(source.params)} parameter arrays, each used once",
        f"transformer {octo.layers} × {octo.dim}, {octo.heads} heads; images {octo.side_px} and {octo.wrist_px} px; "
        f"window {octo.window}; attention of Octo {'1.5' if octo.correct_attention else '1.0'}",
        f"{sizes[0]:,} numbers in the backbone, {sizes[1]:,} in the {policy.settings.action_head} head, "
        f"{sizes[2]:,} in T5",
        f"action statistics of {len(names)} dataset(s): {shown}",
        "tried: actions of two images are finite and differ in their readout",
    ]


def _missing(policy: Policy, tokenizer: Path | None) -> list[str]:
    lines = []
    if policy.settings.action_units is None:
        lines.append("missing: actions stay normalized; choose a dataset with --dataset to give them its units")
    if tokenizer is None:
        lines.append(
            "missing: the tokenizer, so the language encoder was left out and no sentence can be given; import again "
            "with --tokenizer FOLDER, a local t5-base tokenizer, or fine-tune with --language stand-in"
        )
    return lines
