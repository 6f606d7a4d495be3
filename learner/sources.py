"""What the stages read from the replay: episodes with frames, or transitions with readouts."""

import time
from collections.abc import Callable

import torch

from learner.settings import RlSettings, Selection, SftSettings
from policy.language import encode_instruction
from policy.model import Policy
from protos.errors import InputError, Unreachable
from protos.schema import F32, Buffer
from protos.settings import to_json
from services.replay import Episode, ReplayReader
from services.replay.strategies import Strategy, Uniform

Stop = Callable[[], bool]
_LOOK_AGAIN_S = 0.1
_EMBED_ROWS = 64


def read_episodes(settings: SftSettings, stop: Stop) -> list[Episode]:
    """The selected episodes that are in the replay now; waits for the first of them."""
    wanted = tuple({selection.buffer for selection in settings.select})
    reader = ReplayReader(
        settings.replay,
        settings.schema,
        buffers=wanted,
        gamma=1.0,
        n_step=1,
        capacity={},
        keep_frames=wanted,
        name="sft",
    )
    try:
        deadline = time.monotonic() + settings.data_timeout_s
        while not stop():
            catch_up(reader, stop)
            episodes = [episode for selection in settings.select for episode in select(reader, selection)]
            if episodes:
                return episodes
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the replay has no episode for {to_json(settings)['select']} within "
                    f"data_timeout_s={settings.data_timeout_s:g}; write demonstrations first"
                )
            time.sleep(_LOOK_AGAIN_S)
        return []
    finally:
        reader.close()


def select(reader: ReplayReader, selection: Selection) -> list[Episode]:
    """The episodes that a selection names, oldest first."""

    def fits(episode: Episode) -> bool:
        return (
            (selection.source is None or episode.source is selection.source)
            and (selection.region is None or episode.configuration.region == selection.region)
            and (selection.outcome is None or episode.outcome is selection.outcome)
        )

    return reader.episodes(selection.buffer, fits)[: selection.limit]


def catch_up(reader: ReplayReader, stop: Stop) -> None:
    """Reads everything that is in the replay already."""
    while reader.poll() and not stop():
        pass


def wait_until_caught_up(reader: ReplayReader, stop: Stop) -> None:
    """Until a reader that was started has everything that is in the replay already."""
    while not reader.caught_up() and not stop():
        time.sleep(_LOOK_AGAIN_S)


def transition_reader(policy: Policy, settings: RlSettings) -> ReplayReader:
    """A reader of all buffers of the batch; readouts of another backbone are computed again."""
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
        embed=lambda episode: embed_episode(policy, episode),
        backbone_id=policy.backbone_id,
        name=settings.stage,
    )


def strategies(settings: RlSettings) -> dict[Buffer, Strategy]:
    """How the buffers of the batch are drawn from."""
    known: dict[str, Strategy] = {"uniform": Uniform(), "cells": settings.cells, "priority": settings.priority}
    return {buffer: known[name] for buffer, name in settings.loop.sampling.items()}


@torch.inference_mode()
def embed_episode(policy: Policy, episode: Episode) -> F32:
    """Readouts (T + 1, D) of an episode's observations."""
    language = torch.from_numpy(encode_instruction(episode.instruction, policy.settings))[None]
    seen = episode.observation
    side, wrist = (torch.from_numpy(camera).split(_EMBED_ROWS) for camera in (seen.side, seen.wrist))
    return torch.cat([policy.embed(*pair, language) for pair in zip(side, wrist, strict=True)]).numpy()
