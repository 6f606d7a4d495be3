"""This module reads the file with the original's numbers."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policy.octo.model import CameraMask, Goals, OctoInputs
from policy.octo.official.config import octo_settings
from policy.octo.official.names import Array
from policy.octo.settings import OctoSettings
from protos.errors import CorruptData, InputError

CONFIG = "config_json"
_IDS = "in/tasks/language_instruction/input_ids"
_PADDING = "in/tasks/language_instruction/attention_mask"


@dataclass(frozen=True)
class Reference:
    """Holds arrays by name and remembers which were asked for."""

    arrays: Mapping[str, Array]
    config: Mapping[str, Any]
    device: torch.device
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, device: torch.device) -> "Reference":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file") from error
        except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise CorruptData(f"{path}: not an npz file ({error})") from error
        if CONFIG not in arrays:
            raise InputError(f"{path}: holds no {CONFIG!r}, so it is no file of Octo's reference numbers")
        try:
            config = json.loads(str(arrays[CONFIG]))
        except json.JSONDecodeError as error:
            raise CorruptData(f"{path}: {CONFIG} is not JSON ({error})") from error
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise CorruptData(f"{path}: {CONFIG} has no 'model'")
        return cls(arrays, config, device, {CONFIG})

    def below(self, prefix: str) -> dict[str, Array]:
        """Arrays below a name, without the prefix; they count as used."""
        found = {name[len(prefix) :]: array for name, array in self.arrays.items() if name.startswith(prefix)}
        self.used.update(prefix + name for name in found)
        return found

    def cases(self) -> Iterator["Case"]:
        """Returns every case that has inputs, in the order of the file's config."""
        names = {name.split("/")[0] for name in self.arrays if "/in/observations/" in name}
        listed = self.config.get("cases", {})
        for name in [*(name for name in listed if name in names), *sorted(names - set(listed))]:
            yield Case(self, name, listed.get(name, {}))

    @property
    def unused(self) -> list[str]:
        return sorted(self.arrays.keys() - self.used)


@dataclass(frozen=True)
class Case:
    """Reads one run of the original."""

    reference: Reference
    name: str
    flags: Mapping[str, Any]
    """Flags of the model that differ in this case."""

    def get(self, name: str) -> Array | None:
        key = f"{self.name}/{name}"
        if key not in self.reference.arrays:
            return None
        self.reference.used.add(key)
        return self.reference.arrays[key]

    def tensor(self, name: str) -> Tensor | None:
        array = self.get(name)
        return None if array is None else torch.from_numpy(array.copy()).to(self.reference.device)

    def names(self, prefix: str) -> list[str]:
        start = f"{self.name}/"
        return [name[len(start) :] for name in self.reference.arrays if name.startswith(start + prefix)]

    def settings(self) -> OctoSettings:
        params = self.reference.below("params/")
        config = {**self.reference.config, "model": {**self.reference.config["model"], **self.flags}}
        return octo_settings(config, params)

    def language_ids(self) -> tuple[Tensor, Tensor] | None:
        """Returns token ids and a mask of those that are not padding."""
        ids, padding = self.tensor(_IDS), self.tensor(_PADDING)
        return None if ids is None or padding is None else (ids, padding)

    def inputs(self, language: Tensor | None) -> OctoInputs:
        """Returns the inputs of the original; `language` takes the place of the token ids."""
        observed, task = "in/observations/", "in/tasks/"
        timestep_mask = self.tensor("in/timestep_pad_mask")
        for unread in (f"{observed}timestep_pad_mask", *self.names(f"{task}pad_mask_dict/image_")):
            self.get(unread)  # the first is the same again; masks of goal images are not read by the original either
        return OctoInputs(
            side=self.tensor(f"{observed}image_primary"),
            wrist=self.tensor(f"{observed}image_wrist"),
            language=language,
            goals=Goals(side=self.tensor(f"{task}image_primary"), wrist=self.tensor(f"{task}image_wrist")),
            timestep_mask=timestep_mask,
            camera_mask=CameraMask(
                side=self.tensor(f"{observed}pad_mask_dict/image_primary"),
                wrist=self.tensor(f"{observed}pad_mask_dict/image_wrist"),
            ),
            language_mask=self.tensor(f"{task}pad_mask_dict/language_instruction"),
        )
