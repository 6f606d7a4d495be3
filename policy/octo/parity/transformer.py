"""This module compares masks, tokenizers, blocks and outputs of one case."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from policy.octo.model import CAMERAS, Octo, OctoInputs, Tokens
from policy.octo.official.names import CAMERA_NAMES
from policy.octo.parity.reference import Case
from policy.octo.parity.table import CLOSE, EXACT, SHORTCUT, Table
from policy.octo.settings import STEM_CONVOLUTIONS

_BLOCK_PARTS = {
    "LayerNorm_0": "attention_norm",
    "MultiHeadDotProductAttention_0": "out",
    "LayerNorm_1": "mlp_norm",
    "MlpBlock_0": "mlp",
}


def check_transformer(table: Table, case: Case, octo: Octo, inputs: OctoInputs) -> dict[str, Tokens]:
    """Compares a case and returns the outputs by their official names."""
    _check_tokenizers(table, case, octo, inputs)
    if (mask := case.get("mid/attention_mask")) is not None:
        table.compare(case.name, "masks", "attention", octo.allowed(octo.groups(inputs), inputs), mask, EXACT)
    with _recorded(octo, _modules(octo)) as seen:
        outputs = {_official(name): tokens for name, tokens in octo.outputs(inputs).items()}
    _check_intermediates(table, case, seen)
    outputs.update(_joined(outputs))
    for name in _groups(case, "out/"):
        _check_group(table, case, f"out/{name}", "outputs", outputs.get(name))
    _check_shortcut(table, case, octo, inputs, outputs["readout_action"].tokens)
    return outputs


def _check_tokenizers(table: Table, case: Case, octo: Octo, inputs: OctoInputs) -> None:
    """Compares tokens before projection, masks before the time steps' padding joins them."""
    tokens = octo.tokenize(inputs)
    unpadded = OctoInputs(
        side=inputs.side,
        wrist=inputs.wrist,
        language=inputs.language,
        camera_mask=inputs.camera_mask,
        language_mask=inputs.language_mask,
    )
    masks = octo.masks(tokens, unpadded)
    ours = {"task_language": "task_tokenizers_language"}
    ours |= {f"obs_{name}": f"observation_tokenizers_{CAMERA_NAMES[name]}" for name in CAMERAS}
    for name, official in ours.items():
        found = Tokens(tokens[name], masks[name]) if name in tokens else None
        what = "T5 output" if name == "task_language" else "image tokens"
        _check_group(table, case, f"mid/{official}", what, found)


def _check_group(table: Table, case: Case, key: str, what: str, found: Tokens | None) -> None:
    for part, title, limit in (("tokens", what, CLOSE), ("mask", "masks", EXACT)):
        theirs = case.get(f"{key}/{part}")
        if theirs is None:
            continue
        if found is None:
            table.add(case.name, title, f"{key}: our sequence has no such group", float("inf"), limit.absolute)
        else:
            table.compare(case.name, title, key, getattr(found, part), theirs, limit)


def _check_intermediates(table: Table, case: Case, seen: Mapping[str, Tensor]) -> None:
    for name in case.names("mid/"):
        path = name.removeprefix("mid/").removesuffix("[frame0]")
        if path not in seen or (theirs := case.get(name)) is None:
            continue
        if name.endswith("[frame0]"):
            table.compare(case.name, "stems", path, seen[path][:1].movedim(1, -1), theirs, CLOSE)
        else:
            what = "blocks" if path.startswith("encoderblock") else "projections"
            table.compare(case.name, what, path, seen[path].reshape(theirs.shape), theirs, CLOSE)


def _check_shortcut(table: Table, case: Case, octo: Octo, inputs: OctoInputs, readout: Tensor) -> None:
    """Compares the fast path with the whole output."""
    fast = octo(
        inputs.side,
        inputs.wrist,
        inputs.language,
        inputs.timestep_mask,
        goals=inputs.goals,
        camera_mask=inputs.camera_mask,
        language_mask=inputs.language_mask,
    )
    difference = (fast - readout[:, -1].mean(1)).detach().abs().max()
    table.add(case.name, "readout shortcut", "last step", float(difference), SHORTCUT.absolute, arrays=0)


def _modules(octo: Octo) -> dict[str, nn.Module]:
    """Returns the modules whose outputs the original names."""
    modules: dict[str, nn.Module] = {"task_language_projection": octo.projections["task_language"]}
    for ours, official in CAMERA_NAMES.items():
        modules[f"obs_{official}_projection"] = octo.projections[ours]
        stem = octo.tokenizers[ours].stem
        prefix = f"observation_tokenizers_{official}/SmallStem16_0/"
        for i in range(STEM_CONVOLUTIONS):
            modules[f"{prefix}StdConv_{i}"] = stem[3 * i]
            modules[f"{prefix}GroupNorm_{i}"] = stem[3 * i + 1]
        modules[f"{prefix}embedding"] = stem[3 * STEM_CONVOLUTIONS]
    for i, block in enumerate(octo.transformer.blocks):
        modules[f"encoderblock_{i}"] = block
        for official, ours in _BLOCK_PARTS.items():
            modules[f"encoderblock_{i}/{official}"] = getattr(block, ours)
    return modules


@contextmanager
def _recorded(octo: Octo, modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Records the outputs of the modules while it is open, by name."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            seen[name] = output.detach().clone()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _official(name: str) -> str:
    camera = name.removeprefix("obs_")
    return f"obs_{CAMERA_NAMES[camera]}" if camera in CAMERA_NAMES else name


def _joined(outputs: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """Returns the original's collections `task` and `obs`."""
    found = {}
    for kind, axis in (("task", 1), ("obs", 2)):
        if parts := [tokens for name, tokens in outputs.items() if name.startswith(f"{kind}_")]:
            found[kind] = Tokens(
                torch.cat([part.tokens for part in parts], axis), torch.cat([part.mask for part in parts], axis)
            )
    return found


def _groups(case: Case, prefix: str) -> list[str]:
    return sorted({name.removeprefix(prefix).rsplit("/", 1)[0] for name in case.names(prefix)})
