"""This module holds an episode as it was recorded, in metres and at its own rate, and brings it to another rate.

    foreign data ─► Recording ─► resampled(hz) ─► episode(scale) ─► Episode

Positions are interpolated linearly, rotations along the shortest arc. The motion of a new step is what the recorded
ones sum and compose to over its time, so that the tool ends where it ended. A gripper command and an image are never
mixed: a step takes the last command given in it, an observation the image nearest in time.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from learner.datasets import motion
from learner.datasets.dataset import UNKNOWN_SCALE, ActionScale, same_rate
from protos.episode import Episode
from protos.errors import InputError
from protos.proprioception import tool_vector
from protos.schema import F32, F64, TCP_POSE, UNDER_WAY, Bools, Configuration, Observation, Outcome, Source

_SLACK_STEPS = 0.01
"""A part of a step that is left over and this short makes no step of its own."""
_ROTATION, _ROTATION_UNDER_WAY = slice(TCP_POSE.start + 3, TCP_POSE.stop), slice(UNDER_WAY.start + 3, UNDER_WAY.stop)


def check_rate(name: str, recorded: float | None, wanted: float | None, *, resample: bool) -> None:
    """Raises InputError where data of the rate `recorded` are not read at the rate `wanted`; None: as recorded."""
    if wanted is None:
        return
    if recorded is None:
        raise InputError(
            f"{name}: the data do not say at which rate they were recorded, {wanted:g} Hz are wanted; "
            "give their rate (hz) in a settings file (docs/data.md)"
        )
    if not (resample or same_rate(recorded, wanted)):
        raise InputError(f"{name}: recorded at {recorded:g} Hz, {wanted:g} Hz are wanted, and resample is false")


def check_known(scale: ActionScale, name: str, hz: float | None, wanted: float) -> None:
    """Raises InputError for actions whose motion is not known: they cannot be brought to another rate."""
    if scale == UNKNOWN_SCALE:
        raise InputError(
            f"{name}: recorded at {hz or 0:g} Hz, {wanted:g} Hz are wanted, but the data do not say how far an action "
            "of 1 moves, so its steps cannot be joined or split"
        )


def uniform(steps: int, hz: float | None) -> F64:
    """Returns the times (T + 1,) [s] of the observations of an episode without stamps."""
    return np.arange(steps + 1) / (hz or 1.0)


def nearest(times: F64, at: F64) -> NDArray[np.intp]:
    """Returns the index of the time nearest to each of `at`; the earlier one of two that are equally near."""
    after = np.searchsorted(times, at).clip(1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(len(at), np.intp)
    return np.where(at - times[after - 1] <= times[after] - at + 1e-9, after - 1, after)


@dataclass(frozen=True, kw_only=True)
class Track:
    """A track is the motion of one episode, T steps."""

    times: F64  # (T + 1,) [s] of the observations, increasing
    motion: F32  # (T, 6) [m, rad] per step; unitless where the scale is unknown
    gripper: F32  # (T,) -1 close to 1 open

    def at(self, hz: float) -> F64:
        """Returns the times (N + 1,) of observations at another rate; the last is the track's own."""
        steps = max(1, math.ceil((self.times[-1] - self.times[0]) * hz - _SLACK_STEPS))
        at: F64 = self.times[0] + np.arange(steps + 1) / hz
        at[-1] = self.times[-1]
        return at

    def steps_before(self, at: F64) -> NDArray[np.intp]:
        """Returns the step that is under way just before each time."""
        return (np.searchsorted(self.times, at - _SLACK_STEPS * np.diff(self.times).min()) - 1).clip(
            0, len(self.motion) - 1
        )

    def resampled(self, hz: float | None, recorded: float | None) -> "Track":
        """Returns the track at another rate than it was recorded at; itself where this is its own, or None."""
        if hz is None or (recorded is not None and same_rate(hz, recorded)):
            return self
        at = self.at(hz)
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(self.motion[:, :3], axis=0, dtype=np.float64)])
        moved = np.diff(_linear(path, self.times, at), axis=0)
        turned = motion.interpolated(motion.composed(self.motion[:, 3:]), self.times, at)
        turns = motion.turns(turned[:-1], turned[1:])
        return Track(
            times=at,
            motion=np.concatenate([moved, turns], axis=1).astype(np.float32),
            gripper=self.gripper[self.steps_before(at[1:])],
        )


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording is one episode before its actions have a scale."""

    name: str
    mark: str
    instruction: str
    configuration: Configuration
    observation: Observation  # T + 1 rows
    track: Track
    reward: F32  # (T,)
    human: Bools  # (T,)
    outcome: Outcome
    source: Source
    hz: float | None

    def resampled(self, hz: float | None) -> "Recording":
        """Returns the recording at another rate; itself where this is its own, or None."""
        track = self.track.resampled(hz, self.hz)
        if track is self.track:
            return self
        at = track.times
        taken = self.track.steps_before(at[1:])
        reward = np.zeros(len(taken), np.float32)
        np.add.at(reward, track.steps_before(self.track.times[1:]), self.reward)
        images = nearest(self.track.times, at)
        seen = self.observation
        return replace(
            self,
            observation=Observation(
                side=seen.side[images],
                wrist=seen.wrist[images],
                proprio=resampled_proprio(seen.proprio, self.track.times, at),
            ),
            track=track,
            reward=reward,
            human=self.human[taken],
            hz=hz,
        )

    def episode(self, scale: ActionScale) -> Episode:
        """Returns the episode with actions of this scale."""
        return Episode(
            name=self.name,
            mark=self.mark,
            instruction=self.instruction,
            configuration=self.configuration,
            observation=self.observation,
            action=scale.to_action(self.track.motion, self.track.gripper),
            reward=self.reward,
            human=self.human,
            outcome=self.outcome,
            source=self.source,
            hz=self.hz,
        )


def resampled_episode(episode: Episode, hz: float | None, stored: ActionScale, wanted: ActionScale | None) -> Episode:
    """Brings an episode of TwinRL's own to another rate and action scale; unchanged where both are its own.

    Without a wanted scale a step's action means as much more as the step is longer, so that nothing is clipped.
    """
    if hz is None or episode.hz is None or same_rate(hz, episode.hz):
        return replace(episode, action=stored.converted(episode.action, wanted or stored))
    check_known(stored, episode.name, episode.hz, hz)
    recording = Recording(
        name=episode.name,
        mark=episode.mark,
        instruction=episode.instruction,
        configuration=episode.configuration,
        observation=episode.observation,
        track=Track(
            times=uniform(episode.steps, episode.hz),
            motion=stored.to_motion(episode.action),
            gripper=episode.action[:, -1],
        ),
        reward=episode.reward,
        human=episode.human,
        outcome=episode.outcome,
        source=episode.source,
        hz=episode.hz,
    )
    return recording.resampled(hz).episode(wanted or stored.at_rate(episode.hz, hz))


def resampled_proprio(proprio: F32, times: F64, at: F64) -> F32:
    """Interpolates proprioception (T + 1, 25): rotations along the shortest arc, all else linearly."""
    out = _linear(proprio.astype(np.float64), times, at)
    pose, under_way = (
        motion.rotation_vectors(
            motion.interpolated(motion.quaternions(proprio[:, columns], "rotation_vector"), times, at)
        )
        for columns in (_ROTATION, _ROTATION_UNDER_WAY)
    )
    out[:, _ROTATION], out[:, _ROTATION_UNDER_WAY] = tool_vector(pose), under_way
    return out.astype(np.float32)


def _linear(values: F64, times: F64, at: F64) -> F64:
    return np.stack([np.interp(at, times, column) for column in values.T], axis=1)
