"""This module keeps tensors on disk: safetensors and a JSON manifest with the file's sha256. No pickle.

    folder/manifest.json                 written last, replaced atomically
    folder/tensors-<sha256[:12]>.safetensors

A crash between the two leaves the old pair whole; a manifest whose file changed is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from policy.model import PARTS, Policy
from policy.settings import PolicySettings
from protos.errors import CorruptData, InputError
from protos.files import write_durably
from protos.pointers import refuse_pointers
from protos.settings import from_json, to_json

MANIFEST = "manifest.json"


def save(path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Writes a checkpoint folder; `manifest` is any JSON object."""
    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    file = path / f"tensors-{digest[:12]}.safetensors"
    write_durably(file, [data])
    record = {"manifest": dict(manifest), "file": file.name, "sha256": digest}
    write_durably(path / MANIFEST, [json.dumps(record, indent=1).encode()])
    for old in path.glob("tensors-*.safetensors"):
        if old != file:
            old.unlink()


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns tensors and manifest of a checkpoint folder."""
    record, data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.get("sha256"):
        raise CorruptData(f"{path / record['file']}: sha256 {digest[:12]}… differs from the manifest's")
    try:
        return safetensors.torch.load(data), record["manifest"]
    except SafetensorError as error:
        raise CorruptData(f"{path / record['file']}: not a safetensors file ({error})") from error


def load_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint folder, without its tensors."""
    record: dict[str, Any] = _read(path, tensors=False)[0]["manifest"]
    return record


def exists(path: Path) -> bool:
    """Returns whether the folder holds a checkpoint."""
    return (path / MANIFEST).is_file()


def save_policy(path: Path, policy: Policy, **manifest: Any) -> None:
    """Writes a policy with its settings; further entries of the manifest come by keyword."""
    names = {part: policy.sha256(part) for part in PARTS}
    save(path, policy.state_dict(), {**manifest, "policy": to_json(policy.settings), "parts": names})


def load_policy(path: Path) -> Policy:
    """Returns the policy that `save_policy` wrote. Raises CorruptData when it is not the one in the manifest."""
    tensors, manifest = load(path)
    settings = _settings(manifest, path)
    try:
        with torch.device("meta"):  # no memory is taken before the file is known to fill it
            wanted = {name: tensor.shape for name, tensor in Policy(settings).state_dict().items()}
        if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
            raise CorruptData(f"{path}: tensors do not fit the settings beside them")
        policy = Policy(settings)
        policy.load_state_dict(tensors)
    except (RuntimeError, TypeError, MemoryError) as error:  # torch's words for a size that cannot be
        raise CorruptData(f"{path}: tensors do not fit the settings beside them") from error
    parts = manifest.get("parts")
    for part in PARTS if parts is not None else ():  # folders of earlier versions have none
        promised = str(parts.get(part)) if isinstance(parts, dict) else repr(parts)
        if (found := policy.sha256(part)) != promised:
            raise CorruptData(f"{path}: its {part} is {found[:16]}…, the manifest says {promised[:16]}…")
    return policy


def policy_settings(path: Path) -> PolicySettings:
    """Returns the settings of the policy in a folder, without its tensors."""
    return _settings(load_manifest(path), path)


def _settings(manifest: Mapping[str, Any], path: Path) -> PolicySettings:
    """Returns a policy's settings, a language folder beside the manifest named by its absolute path."""
    if not isinstance(manifest.get("policy"), dict):
        raise InputError(f"{path}: a checkpoint, but not of a policy")
    settings = from_json(PolicySettings, manifest["policy"], "policy")
    beside = path.resolve() / settings.language_folder
    if not settings.language_folder or not beside.is_dir():
        return settings
    return replace(settings, language_folder=str(beside))


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Any], bytes]:
    """Returns the record in the manifest's file and, where they are wanted, the bytes of the tensors' file."""
    refuse_pointers(path, "*.*")
    try:
        record = json.loads((path / MANIFEST).read_bytes())
        if not isinstance(record["manifest"], dict) or Path(record["file"]).name != record["file"]:
            raise ValueError
        return record, (path / record["file"]).read_bytes() if tensors else b""
    except FileNotFoundError as error:
        raise InputError(f"{path}: no checkpoint here ({error.filename} is missing)") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptData(f"{path / MANIFEST}: not a checkpoint manifest") from error
