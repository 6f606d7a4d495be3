"""The policy server acts for all twin actors of a node; it is the only process of the twin side that holds torch.

    TwinActor.act ──► waiting requests ──► one forward pass over all of them ──► answers
                                              ▲
    weights service ──► WeightSubscriber ─────┘ swapped between two batches, never inside one

Requests that arrive while a batch is computed form the next batch. One that is small beside the fleet waits a moment
for more rows, since a batch costs as much by itself as some rows do; the other actors step meanwhile. A new weight
version is loaded between batches; the answer names the version that made it. Requests hold the windows of policies that
look back, for the server remembers nothing of an episode. Exploration noise is each request's own.
"""

import asyncio
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from actors.policies import NewestWeights
from actors.sim.settings import FleetSettings
from protos.schema import F32, U8, Bools, Observation
from services.weights import WeightSubscriber

log = logging.getLogger(__name__)
FIRST_VERSION_TIMEOUT_S = 60.0
ENOUGH_ROWS = 32
"""More rows make none of them cheaper (tiny policy, 64 pixels, one core)."""
GATHER_S = 0.05
"""Longest wait for more rows; where most of a fleet is away no more will come."""

Answer = tuple[F32, F32, int, str]
"""Actions (n, 7), readout embeddings (n, D), weight version, backbone id."""


@dataclass
class _Request:
    observation: Observation
    explore: float
    pad: Bools | None
    answer: "asyncio.Future[Answer]"


class PolicyServer:
    """Answers every twin actor of the node; an async Ray actor, whose methods are called concurrently."""

    def __init__(self, settings: FleetSettings, instruction: str) -> None:
        import torch

        torch.set_num_threads(1)
        self._subscriber = WeightSubscriber(settings.weights, name="policy-server", credentials=settings.credentials)
        self._bound = settings.staleness
        self._newest = NewestWeights(self._subscriber, instruction)
        self._generator = torch.Generator().manual_seed(settings.world.seed)
        self._waiting: list[_Request] = []
        self._enough = min(ENOUGH_ROWS, settings.actors * settings.twins_per_actor // 4)
        self._arrived = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, "policy")
        self._busy = False
        self._batches = self._rows = 0

    async def act(self, side: U8, wrist: U8, proprio: F32, explore: float, pad: Bools | None = None) -> Answer:
        """Returns actions for the rows of one twin actor; windows of observations come with their `pad`.

        `explore` is the standard deviation of the noise on these rows.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        observation = Observation(side=side, wrist=wrist, proprio=proprio)
        self._waiting.append(_Request(observation, explore, pad, answer))
        self._arrived.set()
        if not self._busy:
            self._busy = True
            self._task = asyncio.ensure_future(self._serve())
        return await answer

    async def ready(self) -> str:
        """Returns the reason why no episode may begin with the weights at hand; empty when one may."""
        if self._subscriber.latest() is None:
            return "weights: no version yet"
        await asyncio.get_running_loop().run_in_executor(self._worker, self._newest.refresh)
        return self._newest.refusal or self._bound.reason_to_hold(self._subscriber)

    async def window(self) -> int:
        """Returns the number of observations that a decision is made from."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._refresh)
        return int(self._newest.actor.window)

    async def stats(self) -> dict[str, float]:
        """Returns counts since start and the age of the weights, which is missing before the first version."""
        versions, seconds = self._subscriber.staleness()
        age = {"weights_age_s": seconds} if math.isfinite(seconds) else {}
        return {
            "batches": self._batches,
            "rows": self._rows,
            "version": self._newest.version,
            "versions_behind": versions,
            "weights_silent_s": self._subscriber.silent_s(),
            **age,
        }

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._gather()
            batch, self._waiting = self._waiting, []
            try:
                answers = await loop.run_in_executor(self._worker, self._compute, batch)
            except Exception as error:  # raised to every caller of this batch; the server itself goes on
                for request in batch:
                    request.answer.set_exception(error)
                continue
            for request, one in zip(batch, answers, strict=True):
                request.answer.set_result(one)
        self._busy = False

    async def _gather(self) -> None:
        """Returns once the batch is worth its fixed cost, or has waited for `GATHER_S`."""
        self._arrived = asyncio.Event()  # of the loop that waits
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                while sum(len(request.observation) for request in self._waiting) < self._enough:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _compute(self, batch: list[_Request]) -> list[Answer]:
        """Computes one forward pass over every waiting row; runs in the worker thread."""
        self._refresh()
        rows = [request.observation for request in batch]
        joined = Observation(
            side=np.concatenate([o.side for o in rows]),
            wrist=np.concatenate([o.wrist for o in rows]),
            proprio=np.concatenate([o.proprio for o in rows]),
        )
        pads = [request.pad for request in batch if request.pad is not None]
        explore = np.concatenate([np.full(len(one.observation), one.explore, np.float32) for one in batch])
        actor = self._newest.actor
        actions, embeddings = actor.act(
            joined, np.concatenate(pads) if pads else None, explore=explore, generator=self._generator
        )
        self._batches += 1
        self._rows += len(joined)
        ends = np.cumsum([len(o) for o in rows])
        pieces = [slice(end - len(o), end) for o, end in zip(rows, ends, strict=True)]
        return [(actions[piece], embeddings[piece], actor.version, actor.backbone_id) for piece in pieces]

    def _refresh(self) -> None:
        """Swaps in the newest complete weights; waits for the first version only."""
        if self._subscriber.latest() is None:
            self._subscriber.wait(0, FIRST_VERSION_TIMEOUT_S)
        self._newest.refresh()
