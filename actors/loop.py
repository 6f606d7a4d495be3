"""This module is the one episode loop, for twins and for the arm.

      guide ──configuration──► environment ──observation──► policy
        ▲                          ▲                          │ decision (action, readout embedding, version)
        │ result                   │ action                   ▼
        └──────────────────────────┴──────────── operator may take over
                                   │
                                   ▼ executed action, reward, ends
                               recorder ──segments──► sink (replay)

The environment has n slots (a twin actor steps several twins at once; the arm is one slot). A finished slot is shown to
the policy once more, so that the last observation has its embedding too; then the slot is reset and idles for one
control step, which lets the physics settle, while the other slots go on.

A policy with a window above 1 is shown windows of the latest observations. Where an episode has no earlier observation
its first one stands in, marked in `pad`, as in the batches that the learner draws:

    step of the episode   0          1          2
    window of 2           [o0  o0]   [o0  o1]   [o1  o2]
    pad                   [ 1   0]   [ 0   0]   [ 0   0]

A policy that is not ready (its weights are too stale) holds all slots before the next episode of any of them begins.
`held` is told of that, and of a guide or a sink that kept the loop waiting, so that an arm asks before it moves on.

An arm that stops (`ArmStopped`) in mid-episode closes it with outcome STOPPED, without a report. `stopped` is told, and
returns True once the arm can go on: the same start then comes again.

A slot whose observation is not finite loses its episode and starts anew elsewhere; one that breaks again and again
stays out, named with its start and the reason (`actors.quarantine`), and the others go on. Without any slot left the
loop ends with an error.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from actors.interfaces import Decision, Environment, EpisodeDropped, Guide, Operator, Policy, Sink
from actors.quarantine import Quarantine
from actors.recorder import EpisodeRecorder
from protos.episode import Segment
from protos.errors import ArmStopped, TwinRLError
from protos.schema import ACTION_DIM, F32, GRIPPER_ACTION, Bools, Configuration, Observation, Outcome

log = logging.getLogger(__name__)
T = TypeVar("T")
HOLD_POLL_S = 0.2
SLOW_S = 1.0
"""Time for which a guide or a sink may keep the loop waiting without a word about it."""
MOST_REFUSED = 100
"""Starts in a row that the guide may propose although they broke a world before."""


@dataclass
class LoopStats:
    """Counters of a loop, and the seconds that it spent on each part of a step."""

    turns: int = 0
    """Control steps tried; when it does not rise, the loop is stalled or waits."""
    steps: int = 0
    episodes: int = 0
    successes: int = 0
    interventions: int = 0
    dropped: int = 0
    """Attempts of which a person wanted nothing to be kept."""
    stopped: int = 0
    """Stops of the arm; each ended an attempt, or its reset."""
    bad_observations: int = 0
    waits_for: str = ""
    """The reason why the loop is held before the next episode; empty while it steps."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("observe", "act", "step", "record"), 0.0))


class _StoppedWhileHeld(Exception):
    """The loop was told to stop before the policy was ready."""


class _NotMended(Exception):
    """The arm was stopped for good."""

    def __init__(self, stop: ArmStopped) -> None:
        super().__init__(str(stop))
        self.stop = stop


def idle_actions(n: int) -> F32:
    """Returns actions (n, 7) that stand still with the gripper open."""
    action = np.zeros((n, ACTION_DIM), np.float32)
    action[:, GRIPPER_ACTION] = 1.0
    return action


class EpisodeLoop:
    """Runs episodes in every slot of one environment until told to stop."""

    def __init__(
        self,
        environment: Environment,
        policy: Policy,
        guide: Guide,
        recorder: EpisodeRecorder,
        sink: Sink,
        operator: Operator | None = None,
        quarantine: Quarantine | None = None,
        held: Callable[[str], None] = lambda why: None,
        stopped: Callable[[ArmStopped], bool] = lambda stop: False,
    ) -> None:
        self.environment, self.policy, self.guide = environment, policy, guide
        self.recorder, self.sink, self.operator = recorder, sink, operator
        self.quarantine = quarantine if quarantine is not None else Quarantine()
        self._held, self._stopped = held, stopped
        self.starts: dict[int, Configuration] = {}
        """The start of each slot's present episode."""
        self.stats = LoopStats()
        self._history: ObservationHistory | None = None
        self._ended = np.zeros(environment.n, bool)
        self._retired = np.zeros(environment.n, bool)
        self._stop: Callable[[], bool] = lambda: False

    def run(self, stop: Callable[[], bool]) -> LoopStats:
        """Steps until `stop()` is true or the guide has no configuration left; unfinished episodes are dropped.

        `stop` is asked in every step, and all the time while the loop is held. When the guide has configurations again,
        the loop may be run again.
        """
        self._stop = stop
        self._retired[:] = [slot in self.quarantine.slots for slot in range(self.environment.n)]
        try:
            for slot in np.flatnonzero(~self._retired):
                self._begin(int(slot))
            while not (stop() or self._retired.all()):
                self._take_turn()
        except _StoppedWhileHeld:
            log.info("stopped while it was held")
        except _NotMended as end:
            raise end.stop from None
        return self.stats

    def _take_turn(self) -> None:
        try:
            self._advance()
        except EpisodeDropped as dropped:
            self._drop(dropped)
        except ArmStopped as stop:
            self._send(self.recorder.stop(0))
            self._mend(stop)
            self._begin(0, self.starts[0])

    def _advance(self) -> None:
        """Runs one control step of every slot; slots that were just reset, and retired ones, only idle."""
        self.stats.turns += 1
        observation = self._observe()
        if self._retired.all():
            return
        decision = self._timed("act", lambda: self._decide(observation))
        fresh = self._close_ended(observation, decision)
        if fresh.all():
            return
        action, human = self._choose(observation, decision, fresh)
        step = self._timed("step", lambda: self.environment.step(action))
        started = time.perf_counter()
        for slot in np.flatnonzero(~fresh):
            self._send(self.recorder.record(int(slot), observation, decision, step, human=bool(human[slot])))
        self._ended = (step.terminated | step.truncated) & ~fresh
        self.stats.steps += int((~fresh).sum())
        self.stats.seconds["record"] += time.perf_counter() - started

    def _decide(self, observation: Observation) -> Decision:
        if self._history is None:
            self._history = ObservationHistory(self.environment.n, self.policy.window)
        return self.policy.act(*self._history.push(observation))

    def _observe(self) -> Observation:
        """Returns an observation without NaN: a slot that has one loses its episode and starts anew, or stays out."""
        observation = self._timed("observe", self.environment.observe)
        what = "NaN or infinity in the observation"
        while bad := [int(slot) for slot in observation.bad_rows() if not self._retired[slot]]:
            self.stats.bad_observations += len(bad)
            for slot in bad:
                self._lose(slot, what)
            what = "NaN or infinity in the observation right after a reset"
            observation = self._timed("observe", self.environment.observe)
        return self._without_retired(observation)

    def _lose(self, slot: int, what: str) -> None:
        """Drops the slot's episode. Raises TwinRLError when the last slot stays out."""
        if not self.quarantine.fault(slot, self.starts[slot], what):
            self._begin(slot)
            return
        self._retired[slot] = True
        if len(self.quarantine.slots) == self.environment.n:
            raise TwinRLError(f"no slot is left: {self.quarantine.slots[slot].line()}")

    def _without_retired(self, observation: Observation) -> Observation:
        """Blanks what retired slots still show."""
        bad = observation.bad_rows()
        if not len(bad):
            return observation
        proprio = observation.proprio.copy()
        proprio[bad] = 0.0
        return replace(observation, proprio=proprio)

    def _drop(self, dropped: EpisodeDropped) -> None:
        """Begins anew in the arm's only slot; nothing of the attempt under way is finished or reported."""
        assert self.environment.n == 1, "a person drops the attempt of one arm"
        log.info("%s; %s", dropped, "the same start comes again" if dropped.again else "another start comes")
        self.stats.dropped += 1
        self._begin(0, self.starts[0] if dropped.again else None)

    def _mend(self, stop: ArmStopped) -> None:
        """Returns once the arm can go on. Raises _NotMended where it cannot."""
        assert self.environment.n == 1, "one arm is stopped"
        self.stats.stopped += 1
        if not self._stopped(stop):
            raise _NotMended(stop)

    def _close_ended(self, observation: Observation, decision: Decision) -> Bools:
        """Records ended slots' last observation, reports and resets them; returns the slots that idle now."""
        ended = self._ended.copy()
        for slot in np.flatnonzero(ended):
            segment, result = self.recorder.finish(int(slot), observation, decision)
            self._send(segment)
            self._service("guide", partial(self.guide.report, result))
            self.quarantine.finished(int(slot))
            self.stats.episodes += 1
            self.stats.successes += result.outcome is Outcome.SUCCESS
            self.stats.interventions += result.interventions
            self._begin(int(slot))
        return ended | self._retired

    def _choose(self, observation: Observation, decision: Decision, fresh: Bools) -> tuple[F32, Bools]:
        """Returns the policy's actions, the operator's where one took over, idle ones for fresh slots."""
        action = np.where(fresh[:, None], idle_actions(len(fresh)), decision.action)
        human = np.zeros(len(fresh), bool)
        if self.operator is not None:
            for slot in np.flatnonzero(~fresh):
                override = self.operator.override(int(slot), self.recorder.step(int(slot)), observation)
                if override is not None:
                    action[slot], human[slot] = override, True
        return action, human

    def _begin(self, slot: int, start: Configuration | None = None) -> None:
        """Begins the slot's next episode, from `start` or the guide's next one; retires the slot when there is none."""
        self._ended[slot] = False
        configuration = start or self._next_start()
        if configuration is None:
            self._retired[slot] = True
            return
        self.starts[slot] = configuration
        self._reset(slot, configuration)
        if self._history is not None:
            self._history.begin(slot)
        self.recorder.begin(slot, configuration)

    def _reset(self, slot: int, configuration: Configuration) -> None:
        """Resets the slot as soon as the policy is ready, and again after each stop of the arm."""
        while True:
            self._hold_until_ready()
            try:
                return self.environment.reset(slot, configuration)
            except ArmStopped as stop:
                self._mend(stop)

    def _next_start(self) -> Configuration | None:
        """Returns the guide's next start that is not known to break a world."""
        for _ in range(MOST_REFUSED):
            configuration = self._service("guide", self.guide.next)
            if configuration is None or self.quarantine.admits(configuration):
                return configuration
        log.warning("the guide proposed %d starts in a row that broke a world before", MOST_REFUSED)
        return None

    def _hold_until_ready(self) -> None:
        """Waits for the policy. Raises _StoppedWhileHeld when the loop is told to stop meanwhile."""
        held_since = time.monotonic()
        while reason := self.policy.ready():
            if not self.stats.waits_for:
                log.warning("held before the next episode: %s", reason)
                self._held(reason)
            self.stats.waits_for = reason
            if self._stop():
                raise _StoppedWhileHeld
            time.sleep(HOLD_POLL_S)
        if self.stats.waits_for:
            log.info("goes on after %.0f s", time.monotonic() - held_since)
            self.stats.waits_for = ""

    def _send(self, segment: Segment | None) -> None:
        if segment is not None:
            self._service("replay", partial(self.sink.add, segment))

    def _service(self, name: str, call: Callable[[], T]) -> T:
        """Calls a service; one that was slow has held the loop."""
        started = time.monotonic()
        result = call()
        if (waited_s := time.monotonic() - started) > SLOW_S:
            self._held(f"{name}: an answer took {waited_s:.0f} s")
        return result

    def _timed(self, what: str, call: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = call()
        self.stats.seconds[what] += time.perf_counter() - started
        return result


class ObservationHistory:
    """Keeps windows of the latest observations, the newest last, for n slots; a window of 1 is the newest alone."""

    def __init__(self, n: int, window: int) -> None:
        self.window = window
        self._age = np.zeros(n, np.intp)  # earlier observations of the slot's episode
        self._windows: Observation | None = None

    def begin(self, slot: int) -> None:
        """Notes that the slot's next observation is the first of an episode."""
        self._age[slot] = 0

    def push(self, observation: Observation) -> tuple[Observation, Bools | None]:
        """Takes the newest observation of all slots (n rows); returns their windows and `pad` (n, window).

        The windows' images are (n, window, P, P, 3), their proprioception (n, window, 25). They are valid until the
        next call.
        """
        if self.window == 1:
            return observation, None
        if self._windows is None:
            self._windows = _repeated(observation, self.window)
        pad = self._age[:, None] < np.arange(self.window - 1, -1, -1)
        for name in Observation.__slots__:
            _append(getattr(self._windows, name), getattr(observation, name), self._age == 0)
        self._age += 1
        return self._windows, pad


def _repeated(observation: Observation, window: int) -> Observation:
    """Returns windows that hold only this observation."""
    return Observation(
        **{name: np.repeat(getattr(observation, name)[:, None], window, axis=1) for name in Observation.__slots__}
    )


def _append(windows: np.ndarray, newest: np.ndarray, first: Bools) -> None:
    """Moves windows (n, W, ...) on by one; where the episode begins the newest fills the whole window."""
    windows[:, :-1] = windows[:, 1:]
    windows[:, -1] = newest
    windows[first] = newest[first, None]
