"""`twinrl sft`: supervised fine-tuning on dataset folders, on a replay, or on both."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Suppress

from learner.datasets import ActionScale
from learner.stage import Recipe, SftSettings, starting_settings, with_train_recipe
from policy.checkpoint import policy_settings
from policy.model import described
from policy.settings import PolicySettings, preset
from protos.errors import InputError
from protos.folders import owned
from protos.pointers import refuse_pointer
from protos.problems import doing
from protos.process import Exit
from protos.schema import Schema
from services.monitor import Addresses
from services.net import Credentials
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
    action_scale: Suppress[ActionScale | None] = None

    def __post_init__(self) -> None:
        """Skips the checks of a part: the settings are checked when they are complete."""


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Fine-tune a policy on demonstrations: dataset folders (--data), a replay (--replay), or both."""

    out: Path
    """Folder for the policy, the checkpoint and the metrics."""
    policy: str = ""
    """tiny, small or base for a new one, or the folder of a policy to go on from; tiny where nothing is said."""
    recipe: Recipe | None = None
    """Values that --train starts from: the demo's, or those released with ConRFT or with TwinRL."""
    steps: int | None = None
    """Short for --train.steps."""
    metres: float | None = None
    """Displacement per step at an action of 1, kept with the policy; the first dataset's where it is not given."""
    radians: float | None = None
    """Rotation per step at an action of 1; given together with --metres."""
    replay: tuple[str, ...] = field(default=(), repr=False)
    """unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """Holds the password of the user in the urls, so that it does not stand on the command line."""
    credentials: Credentials = field(default_factory=Credentials)
    """Certificates for a replay on another machine."""
    all: Annotated[Flags, tyro.conf.arg(name="")] = field(default_factory=Flags)
    settings: Path | None = None
    """JSON file of settings to start from; flags change them."""
    resume: bool = False
    """Go on from the checkpoint in the folder, with the settings it was started with."""


def main(arguments: Sequence[str]) -> int:
    start = training.start_values(Flags, arguments) or Flags()
    if (recipe := training.recipe_in(arguments)) is not None:
        start = with_train_recipe(start, recipe)
    default = Sft(out=tyro.MISSING, all=start)
    command = tyro.cli(Sft, prog="twinrl sft", args=arguments, default=default, config=(tyro.conf.UseAppendAction,))
    settings = _settings(command)
    line = _start(settings)
    with owned(command.out, "twinrl sft"):
        training.prepare_folder(command.out, settings, resume=command.resume)

        if line and not command.resume:
            sys.stdout.write(line + "\n")

        def job(stop: training.Stop, watch: training.Watch) -> bool:
            from learner.stage import run_sft

            with doing("fine-tuning", command.out):
                return run_sft(settings, command.out, resume=command.resume, stop=stop, watch=watch)

        finished = training.follow("SFT", job, total=settings.train.steps, notes=NOTES)
        sys.stdout.write(training.summary("twinrl sft", command.out, finished=finished) + "\n")
        return Exit.DONE if finished else Exit.INTERRUPTED


def _settings(command: Sft) -> SftSettings:
    flags = command.all
    scale = _scale(command) or flags.action_scale
    own: dict[str, Any] = {
        "action_scale": scale,
        "replay": _replay(command),
        "data": tuple(folder.resolve() for folder in flags.data),
    }
    if command.steps is not None:
        own["train"] = replace(flags.train, steps=command.steps)
    initial = flags.initial_policy
    if command.policy in training.PRESETS:
        own |= {"policy": preset(command.policy), "initial_policy": None}
        initial = None
    elif command.policy:
        if not Path(command.policy).is_dir():
            refuse_pointer(Path(command.policy))
            raise InputError(f"--policy {command.policy}: choose one of {', '.join(training.PRESETS)}, or a folder")
        initial = own["initial_policy"] = Path(command.policy).resolve()
    own["schema"] = training.schema_of(own.get("policy", flags.policy), initial, flags.schema)
    return training.fitted(SftSettings, flags, **own)


def _start(settings: SftSettings) -> str:
    """Returns a line that says which parts of the initial policy are kept, empty when all are.

    Raises InputError when the policy cannot be started from.
    """
    wanted = starting_settings(settings)
    if settings.head == "keep" or settings.initial_policy is None:
        return ""
    return described(policy_settings(settings.initial_policy), wanted)


def _scale(command: Sft) -> ActionScale | None:
    if command.metres is None and command.radians is None:
        return None
    if command.metres is None or command.radians is None:
        raise InputError("an action scale has two numbers: give --metres and --radians")
    return ActionScale(metres=command.metres, radians=command.radians)


def _replay(command: Sft) -> ReplaySettings | None:
    """The one named on the command line, or the one of the settings file."""
    given = Addresses(
        replay=command.replay,
        prefix=command.prefix,
        password_file=command.password_file,
        credentials=command.credentials,
    )
    return given.settings().replay or command.all.replay
