"""The fidelity of a twin: its order of the starts, its looks, its motions, each against another world."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protos.schema import Observation
from twinrl.fidelity.images import ImageDistance, image_distance
from twinrl.fidelity.probes import Recorded, World, pulses, recorded_motions, recorded_situations, situations
from twinrl.fidelity.rank import Counts, RankAgreement, rank_agreement
from twinrl.fidelity.response import StepResponse, step_response
from twinrl.report.inputs import Episode

CAMERAS = ("side", "wrist")


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What was measured; None where there was nothing to measure it from."""

    first: str
    """Name of the twin."""
    second: str
    """Of the world that it is measured against."""
    policy: str = ""
    """Whose success was compared."""
    success: RankAgreement | None = None
    images: dict[str, ImageDistance] | None = None
    """By camera."""
    response: StepResponse | None = None
    latency_steps: tuple[int, ...] = ()
    """Of the twin, drawn per episode; empty when it is not known."""


def counts_by_cell(episodes: Iterable[Episode]) -> Counts:
    """Successes and rollouts of each cell of the grid; episodes outside the grid are left out."""
    counts: dict[int, tuple[int, int]] = {}
    for episode in episodes:
        if episode.cell >= 0:
            successes, rollouts = counts.get(episode.cell, (0, 0))
            counts[episode.cell] = (successes + episode.success, rollouts + 1)
    return counts


def of_success(first: Iterable[Episode], second: Iterable[Episode]) -> RankAgreement | None:
    """Of one policy's evaluations in both worlds; None when one is missing."""
    a, b = counts_by_cell(first), counts_by_cell(second)
    return rank_agreement(a, b) if a and b else None


def of_domains(first: World, second: World) -> tuple[dict[str, ImageDistance], StepResponse]:
    """Looks and motions of two domains of the twin."""
    starts = situations(first.task, first.seed)
    images = _images(first.pictures(starts), second.pictures(starts))
    starts, actions = pulses(first.task)
    return images, step_response(first.paths(starts, actions), second.paths(starts, actions))


def pictures_of_recorded(twin: World, episodes: Sequence[Recorded]) -> dict[str, ImageDistance]:
    """Looks of the twin against recorded episodes, of which there is at least one."""
    starts, seen = recorded_situations(episodes)
    return _images(twin.pictures(starts), seen)


def motions_of_recorded(twin: World, episodes: Sequence[Recorded]) -> StepResponse | None:
    """Motions of the twin under the actions of recorded episodes; None when every one of them grasps at once.

    The actions must be all that moved the tool: not those of demonstrations that were disturbed on purpose.
    """
    starts, actions, measured = recorded_motions(episodes)
    return step_response(twin.paths(starts, actions), measured) if actions else None


def _images(first: Observation, second: Observation) -> dict[str, ImageDistance]:
    return {camera: image_distance(getattr(first, camera), getattr(second, camera)) for camera in CAMERAS}
