"""`twinrl rl`: reinforcement learning on what actors stream into a replay; weights go out to them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Suppress

from learner.stage import Recipe, RlSettings, with_rl_recipe
from policy.checkpoint import policy_settings
from policy.language import check_language
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.folders import owned
from protos.problems import doing
from protos.process import Exit
from protos.schema import Schema
from services.monitor import Addresses
from services.replay import ReplaySettings
from twinrl import training
from twinrl.run.preflight import check_stage_room

NOTES = ("updates", "version", "td", "bc", "actor_q", "q", "warmup_td", "skipped")


@dataclass(frozen=True, kw_only=True)
class Flags(RlSettings):
    """Every setting of the stage; hidden are those that the command has words of its own for."""

    replay: Suppress[ReplaySettings | None] = None  # type: ignore[assignment]
    policy: Suppress[Path | None] = None  # type: ignore[assignment]
    schema: Suppress[Schema] = field(default_factory=Schema)

    def __post_init__(self) -> None:
        """Skips the checks of a part: the settings are checked when they are complete."""


@dataclass(frozen=True, kw_only=True)
class Rl:
    """Train a policy on the transitions of a replay (--replay), and publish its weights (--weights)."""

    out: Path
    """Folder for the policy, the checkpoint and the metrics."""
    policy: Path | None = None
    """Folder of the policy to start from."""
    recipe: Recipe | None = None
    """Values that --update, --batch.gamma, --batch.n-step and --loop.warmup-updates start from: the demo's, or those
    released with ConRFT or with TwinRL. Batches keep their size."""
    replay: tuple[str, ...] = field(default=(), repr=False)
    """unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """Holds the password of the user in the urls, so that it does not stand on the command line."""
    settings: Path | None = None
    """JSON file of settings to start from; flags change them."""
    resume: bool = False
    """Go on from the checkpoint in the folder, with the settings it was started with."""
    all: Annotated[Flags, tyro.conf.arg(name="")] = field(default_factory=Flags)


def main(arguments: Sequence[str]) -> int:
    start = training.start_values(Flags, arguments) or Flags()
    if (recipe := training.recipe_in(arguments)) is not None:
        start = with_rl_recipe(start, recipe)
    default = Rl(out=tyro.MISSING, all=start)
    command = tyro.cli(Rl, prog="twinrl rl", args=arguments, default=default, config=(tyro.conf.UseAppendAction,))
    settings = _settings(command)
    check_stage_room(command.out, settings.policy)
    with owned(command.out, "twinrl rl"):
        training.prepare_folder(command.out, settings, resume=command.resume)

        def job(stop: training.Stop, watch: training.Watch) -> bool:
            from learner.stage import run_rl

            with doing("learning", command.out):
                return run_rl(settings, command.out, resume=command.resume, stop=stop, watch=watch)

        finished = training.follow(settings.stage, job, total=settings.loop.env_steps, notes=NOTES)
        sys.stdout.write(training.summary("twinrl rl", command.out, finished=finished) + "\n")
        return Exit.DONE if finished else Exit.INTERRUPTED


def _settings(command: Rl) -> RlSettings:
    flags = command.all
    policy = flags.policy if command.policy is None else command.policy.resolve()
    if policy is None:
        raise InputError("name the policy to start from: --policy FOLDER (twinrl sft makes one)")
    _check(policy)
    own: dict[str, Any] = {"policy": policy, "replay": _replay(command)}
    if own["replay"] is None:
        raise InputError("name the replay that actors write to: --replay URL, once per shard")
    own["schema"] = training.schema_of(PolicySettings(), policy, flags.schema)
    return training.fitted(RlSettings, flags, **own)


def _check(policy: Path) -> None:
    """Raises InputError for a policy that cannot be trained like this, or not on this machine."""
    found = policy_settings(policy)
    if found.action_head != "consistency":
        raise InputError(
            f"{policy} has a {found.action_head} head, reinforcement learning needs a consistency head: "
            f"twinrl sft --policy {policy} --head consistency makes one on its backbone"
        )
    check_language(found)


def _replay(command: Rl) -> ReplaySettings | None:
    """The one named on the command line, or the one of the settings file."""
    given = Addresses(
        replay=command.replay,
        prefix=command.prefix,
        password_file=command.password_file,
        credentials=command.all.credentials,
    )
    return given.settings().replay or command.all.replay
