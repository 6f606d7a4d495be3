"""What the stages read from the replay: episodes with frames, or transitions with readouts."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import takewhile

import torch

from learner.settings import RlSettings, Selection, SftSettings, UpdateSettings
from learner.stage.position import EpisodeNames, episodes_named
from policy.language import encode_instruction
from policy.model import Policy
from protos.episode import Episode
from protos.errors import InputError, Unreachable
from protos.schema import F32, Buffer, Schema
from protos.settings import to_json
from protos.status import StatusFile
from services.replay import Position, ReplayReader, ReplaySettings, newest, read_episodes, totals
from services.replay.read.batch import Field
from services.replay.read.strategies import Strategy, Uniform

log = logging.getLogger(__name__)
Stop = Callable[[], bool]
_LOOK_AGAIN_S = 0.1
_EMBED_ROWS = 64
_EPISODE_BYTES = 2 << 30
"""Most bytes of images of one selection; the oldest episodes beyond it are left out."""


def selected_episodes(
    settings: SftSettings, stop: Stop, resume: EpisodeNames | None = None
) -> tuple[list[Episode], EpisodeNames | None]:
    """Returns the selected episodes that are in the replay now, and their names for a checkpoint.

    Waits for the replay, and for the first of them. With the names of an earlier call they are those of that call.
    """
    replay = settings.replay
    assert replay is not None, "no replay to read from"
    if resume is not None:
        return episodes_named(replay, settings.schema, resume, settings.resume, stop), resume
    wait_for_totals(replay, settings.data_timeout_s, stop)
    deadline = time.monotonic() + settings.data_timeout_s
    while not stop():
        found = [
            (each.buffer, episode) for each in settings.select for episode in _select(replay, settings, each, stop)
        ]
        if found:
            return [episode for _, episode in found], EpisodeNames.of(found)
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the replay has no episode for {to_json(settings)['select']} within "
                f"data_timeout_s={settings.data_timeout_s:g}; write demonstrations first"
            )
        time.sleep(_LOOK_AGAIN_S)
    return [], None


def wait_for_totals(replay: ReplaySettings, timeout_s: float, stop: Stop) -> Mapping[Buffer, int]:
    """Transitions ever committed to each buffer, over all shards; one that is away is waited for.

    Empty when told to stop first. Raises Unreachable when a shard does not answer within `timeout_s`.
    """
    deadline, status, told = time.monotonic() + timeout_s, StatusFile(), ""
    while not stop():
        try:
            return totals(replay)
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise Unreachable(f"{error}; given up after {timeout_s:g} s") from error
            status.write(doing="starting", waiting_for=f"replay: {error}")
            if str(error) != told:
                told = str(error)
                log.warning("%s; waiting for it up to %g s", told, timeout_s)
        time.sleep(_LOOK_AGAIN_S)
    return {}


def _select(replay: ReplaySettings, settings: SftSettings, selection: Selection, stop: Stop) -> list[Episode]:
    """Returns the episodes that a selection names, oldest first; the newest ones where they are too many bytes."""

    def fits(episode: Episode) -> bool:
        return (
            (selection.source is None or episode.source is selection.source)
            and (selection.region is None or episode.configuration.region == selection.region)
            and (selection.outcome is None or episode.outcome is selection.outcome)
        )

    with closing(read_episodes(replay, settings.schema, (selection.buffer,), where=fits, name="sft")) as episodes:
        return newest(takewhile(lambda _: not stop(), episodes), _EPISODE_BYTES)[: selection.limit]


def wait_until_caught_up(reader: ReplayReader, stop: Stop) -> None:
    """Until a reader that was started has everything that is in the replay already."""
    while not reader.caught_up() and not stop():
        time.sleep(_LOOK_AGAIN_S)


def transition_reader(policy: Policy, settings: RlSettings, resume: Position | None = None) -> ReplayReader:
    """A reader of all buffers of the batch, with the readouts or pictures that updates need.

    Readouts of another backbone are computed again. `resume` is where an earlier reader of the stage was.
    """
    buffers = (*settings.loop.demo, *settings.loop.online)
    missing = [buffer for buffer in buffers if buffer not in settings.capacity]
    if missing:
        raise InputError(f"capacity has no entry for {', '.join(missing)}, which the batch draws from")
    return ReplayReader(
        settings.replay,
        settings.schema,
        buffers=buffers,
        gamma=settings.gamma,
        n_step=settings.n_step,
        capacity={buffer: settings.capacity[buffer] for buffer in buffers},
        sampling=strategies(settings),
        fields=batch_fields(settings.update),
        window=policy.settings.octo.window if _needs_windows(policy, settings) else 1,
        frame_memory_bytes=settings.frame_memory_bytes,
        embed=lambda episode: embed_episode(policy, episode),
        backbone_id=policy.backbone_id,
        name=settings.stage,
        resume=resume,
    )


def batch_fields(settings: UpdateSettings) -> tuple[Field, ...]:
    """What batches hold of an observation, beside its numbers."""
    readouts: tuple[Field, ...] = ("embedding",) if settings.needs_readouts else ()
    pictures: tuple[Field, ...] = ("side", "wrist") if settings.needs_pictures else ()
    return readouts + pictures


def instruction(settings: RlSettings, stop: Stop) -> str:
    """Returns the instruction of the first demonstration, for which it waits.

    Raises Unreachable when none comes within `replay_timeout_s`.
    """
    buffers, name = tuple(settings.loop.demo), f"{settings.stage}-instruction"
    deadline = time.monotonic() + settings.replay_timeout_s
    while not stop():
        found = read_episodes(settings.replay, settings.schema, buffers, name=name)
        with suppress(Unreachable), closing(found):
            for episode in found:
                return episode.instruction
        if time.monotonic() > deadline:
            raise Unreachable(
                f"no demonstration in {', '.join(buffers)} within replay_timeout_s={settings.replay_timeout_s:g} "
                "that says what the policy is told; write demonstrations, or set `instruction`"
            )
        time.sleep(_LOOK_AGAIN_S)
    return ""


def check_cameras(policy: Policy, schema: Schema) -> None:
    """Raises InputError when the schema's pictures are not what the policy takes."""
    octo = policy.settings.octo
    if (octo.side_px, octo.wrist_px) != (schema.side_px, schema.wrist_px):
        raise InputError(
            f"the policy takes pictures of {octo.side_px} and {octo.wrist_px} pixels, the schema says "
            f"{schema.side_px} and {schema.wrist_px}"
        )


def strategies(settings: RlSettings) -> dict[Buffer, Strategy]:
    """How the buffers of the batch are drawn from."""
    known: dict[str, Strategy] = {"uniform": Uniform(), "cells": settings.cells, "priority": settings.priority}
    return {buffer: known[name] for buffer, name in settings.loop.sampling.items()}


def _needs_windows(policy: Policy, settings: RlSettings) -> bool:
    """Readouts and the plain encoder of proprioception need only the newest observation."""
    return settings.update.needs_pictures or policy.settings.proprio_encoder == "mlp"


@torch.inference_mode()
def embed_episode(policy: Policy, episode: Episode) -> F32:
    """Readouts (T + 1, D) of an episode's observations, each in the window that an actor saw it in."""
    device, window = policy.device, policy.settings.octo.window
    language = torch.from_numpy(encode_instruction(episode.instruction, policy.settings))[None].to(device)
    side, wrist = (torch.from_numpy(camera) for camera in (episode.observation.side, episode.observation.wrist))
    steps = torch.arange(len(side))[:, None] - torch.arange(window - 1, -1, -1)  # (T + 1, window), negative: padding
    readouts = []
    for rows in steps.split(_EMBED_ROWS):
        seen = rows.clamp_min(0)
        mask = (rows >= 0).to(device) if bool((rows < 0).any()) else None
        readouts.append(policy.embed(side[seen].to(device), wrist[seen].to(device), language, mask).cpu())
    return torch.cat(readouts).numpy()
