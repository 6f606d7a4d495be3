"""`twinrl sft`: supervised fine-tuning on dataset folders, on a replay, or on both."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Suppress

from learner.settings import SftSettings
from policy.presets import preset
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import Schema
from services.cluster.addresses import Addresses
from services.credentials import Credentials
from services.replay import ReplaySettings
from twinrl import training

NOTES = ("bc", "auxiliary", "position_rmse_m", "skipped")


@dataclass(frozen=True, kw_only=True)
class Flags(SftSettings):
    """Every setting of the stage; hidden are those that the command has words of its own for."""

    replay: Suppress[ReplaySettings | None] = None
    policy: Suppress[PolicySettings] = field(default_factory=PolicySettings)
    initial_policy: Suppress[Path | None] = None
    schema: Suppress[Schema] = field(default_factory=Schema)

    def __post_init__(self) -> None:
        """Nothing: what comes of the flags is checked when it is whole."""


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Fine-tune a policy on demonstrations: dataset folders (--data), a replay (--replay), or both."""

    out: Path
    """Folder for the policy, the checkpoint and the metrics."""
    policy: str = ""
    """tiny, small or base for a new one, or the folder of a policy to go on from; tiny where nothing is said."""
    steps: int | None = None
    """Short for --train.steps."""
    replay: tuple[str, ...] = field(default=(), repr=False)
    """unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """Holds the password of the user in the urls, so that it does not stand on the command line."""
    credentials: Credentials = field(default_factory=Credentials)
    """For a replay beyond this machine."""
    all: Annotated[Flags, tyro.conf.arg(name="")] = field(default_factory=Flags)
    settings: Path | None = None
    """JSON file of settings to start from; flags change them."""
    resume: bool = False
    """Go on from the checkpoint in the folder, with the settings it was started with."""


def main(arguments: Sequence[str]) -> int:
    start = training.start_values(Flags, arguments) or Flags()
    default = Sft(out=tyro.MISSING, all=start)
    command = tyro.cli(Sft, prog="twinrl sft", args=arguments, default=default, config=(tyro.conf.UseAppendAction,))
    settings = _settings(command)
    training.prepare_folder(command.out, settings, resume=command.resume)

    def job(stop: training.Stop, watch: training.Watch) -> bool:
        from learner.stages import run_sft

        return run_sft(settings, command.out, resume=command.resume, stop=stop, watch=watch)

    finished = training.follow("SFT", job, total=settings.train.steps, notes=NOTES)
    sys.stdout.write(training.summary("twinrl sft", command.out, finished=finished) + "\n")
    return 0 if finished else training.STOPPED


def _settings(command: Sft) -> SftSettings:
    flags = command.all
    own: dict[str, Any] = {"replay": _replay(command), "data": tuple(folder.resolve() for folder in flags.data)}
    if command.steps is not None:
        own["train"] = replace(flags.train, steps=command.steps)
    initial = flags.initial_policy
    if command.policy in training.PRESETS:
        own |= {"policy": preset(command.policy), "initial_policy": None}
        initial = None
    elif command.policy:
        if not Path(command.policy).is_dir():
            raise InputError(f"--policy {command.policy}: choose one of {', '.join(training.PRESETS)}, or a folder")
        initial = own["initial_policy"] = Path(command.policy).resolve()
    own["schema"] = training.schema_of(own.get("policy", flags.policy), initial, flags.schema)
    return training.fitted(SftSettings, flags, **own)


def _replay(command: Sft) -> ReplaySettings | None:
    """The one named on the command line, or the one of the settings file."""
    given = Addresses(
        replay=command.replay,
        prefix=command.prefix,
        password_file=command.password_file,
        credentials=command.credentials,
    )
    return given.settings().replay or command.all.replay
