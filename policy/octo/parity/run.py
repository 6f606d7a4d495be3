"""All cases of a file."""

from pathlib import Path

import torch
from torch import nn

from policy.heads import DiffusionHead
from policy.octo.model import Octo
from policy.octo.official import check_all_used, head_state, octo_state, t5_layers
from policy.octo.official_config import head_settings
from policy.octo.official_names import Params
from policy.octo.parity.gradients import check_gradients
from policy.octo.parity.heads import check_diffusion, check_loss, check_other_heads, check_schedule, diffusion_loss
from policy.octo.parity.reference import Case, Reference
from policy.octo.parity.table import ALL_CASES, Table
from policy.octo.parity.transformer import check_transformer
from policy.octo.t5 import build_t5, encode_ids
from policy.settings import DiffusionSettings
from protos.errors import InputError


def compare_file(path: Path, device: torch.device) -> tuple[Table, list[str]]:
    """The table, and the names in the file that nothing was compared with."""
    reference, table = Reference.read(path, device), Table()
    params = reference.below("params/")
    encoder = build_t5(params).to(device) if t5_layers(params) else None
    for case in reference.cases():
        _compare_case(table, case, params, encoder)
    return table, reference.unused


def _compare_case(table: Table, case: Case, params: Params, encoder: nn.Module | None) -> None:
    settings, device = case.settings(), case.reference.device
    check_all_used(params, settings)
    octo = Octo(settings)
    octo.load_state_dict(octo_state(params, settings))
    octo = octo.to(device)
    head = _head(case, params, settings.dim, settings.readout_tokens).to(device)
    if "schedule" not in table.parts(ALL_CASES):
        check_schedule(table, case.reference.below("schedule/"), head)
    language = None
    if (ids := case.language_ids()) is not None:
        if encoder is None:
            raise InputError(f"case {case.name!r} has language, but the file holds no language encoder")
        language = encode_ids(encoder, *ids)
    outputs = check_transformer(table, case, octo, case.inputs(language))
    embedding = outputs["readout_action"].tokens.mean(2)
    with torch.no_grad():
        check_diffusion(table, case, head, embedding)
    check_other_heads(table, case, outputs)
    if (loss := diffusion_loss(case, head, embedding)) is not None:
        check_loss(table, case, loss)
        if case.names("grad/"):
            loss.backward()
            check_gradients(table, case, octo, head, settings)


def _head(case: Case, params: Params, dim: int, readout_tokens: int) -> DiffusionHead:
    _, settings = head_settings(case.reference.config, readout_tokens)
    if not isinstance(settings, DiffusionSettings):
        raise InputError("the file's action head is not a diffusion head")
    head = DiffusionHead(dim, settings)
    head.load_state_dict(head_state(params, head.state_dict()))
    return head
