"""This module judges the numbers of a fidelity measurement. The limits are where policies of the demo began to suffer
when one property was changed.

success     the cells agree where the bootstrap interval of Spearman's correlation lies above 0; near the ceiling
there is nothing left to gain from a better twin
images    a side camera 5 mm off gives 33 dB and SSIM 0.985 (harmless), 10 mm 28 dB and 0.95, 24 mm 22 dB and
0.83 (policies fail); colours shifted by 0.2 give 32 dB (harmless), by 0.8 20 dB (half of them fail)
motion      policies trained on latencies of 0 and 1 step bear one step (100 ms) more than their mean, not two
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protos.schema import CONTROL_HZ
from twinrl.fidelity.compare import AxisResponse, Fidelity, ImageDistance, RankAgreement, StepResponse

Verdict = Literal["good", "fair", "poor", "–"]
GOOD_SHARE_OF_CEILING = 0.8
PSNR_DB, SSIM = (30.0, 25.0), (0.97, 0.90)
RMS_MM, DELAY_MS, GAIN_OFF = (10.0, 20.0), (100.0, 150.0), (0.2, 0.35)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement for people."""

    what: str
    value: str
    note: str
    verdict: Verdict


def rows(fidelity: Fidelity) -> list[Row]:
    """Everything that was measured, in words."""
    found = [] if fidelity.success is None else _of_success(fidelity.success)
    for camera, distance in (fidelity.images or {}).items():
        found.append(_of_image(camera, distance))
    if fidelity.response is not None:
        found += _of_response(fidelity.response) + _latency(fidelity.response, fidelity.latency_steps)
    return found


def _of_success(ranks: RankAgreement) -> list[Row]:
    note = f"{ranks.cells} cells, {ranks.rollouts[0]} and {ranks.rollouts[1]} rollouts"
    if ranks.spearman is None or ranks.kendall is None:
        note += "; a world has the same rate everywhere"
        return [Row(what="success by cell", value="–", note=note, verdict="–")]
    ceiling = "–" if ranks.ceiling is None else f"{ranks.ceiling:.2f}"
    spearman = f"{ranks.spearman:.2f}{_interval(ranks.spearman_interval)}"
    return [
        Row(
            what="success by cell, Spearman",
            value=spearman,
            note=f"{note}; ceiling of so few rollouts {ceiling}",
            verdict=_of_ranks(ranks),
        ),
        Row(
            what="success by cell, Kendall's tau-b",
            value=f"{ranks.kendall:.2f}{_interval(ranks.kendall_interval)}",
            note=f"mean success differs by {100 * ranks.difference:+.0f} points",
            verdict="–",
        ),
    ]


def _of_ranks(ranks: RankAgreement) -> Verdict:
    assert ranks.spearman is not None
    if ranks.spearman_interval is None or ranks.spearman_interval[0] <= 0:
        return "poor"
    return "good" if ranks.spearman >= GOOD_SHARE_OF_CEILING * (ranks.ceiling or 1.0) else "fair"


def _of_image(camera: str, distance: ImageDistance) -> Row:
    return Row(
        what=f"{camera} camera, same joints and bodies",
        value=f"{distance.psnr_db:.1f} dB, SSIM {distance.ssim:.3f}",
        note=f"{distance.frames} images, the worst {distance.worst_psnr_db:.1f} dB",
        verdict=_worst([_at_least(distance.psnr_db, PSNR_DB), _at_least(distance.ssim, SSIM)]),
    )


def _of_response(response: StepResponse) -> list[Row]:
    whole = Row(
        what="same actions, distance of the tools",
        value=f"{response.rms_mm:.1f} mm RMS",
        note=f"{response.sequences} sequences",
        verdict=_at_most(response.rms_mm, RMS_MM),
    )
    return [whole, *(_of_axis(name, axis) for name, axis in response.axes.items())]


def _of_axis(name: str, axis: AxisResponse) -> Row:
    what = f"along {name}"
    if axis.delay_ms is None or axis.gain is None:
        return Row(what=what, value=f"{axis.rms_mm:.1f} mm RMS", note="hardly moved", verdict="–")
    judged = [_at_most(abs(axis.delay_ms), DELAY_MS), _at_most(abs(axis.gain - 1), GAIN_OFF)]
    return Row(
        what=what,
        value=f"{axis.delay_ms:+.0f} ms, gain {axis.gain:.2f}",
        note=f"{axis.rms_mm:.1f} mm RMS",
        verdict=_worst(judged),
    )


def _latency(response: StepResponse, steps: tuple[float, ...]) -> list[Row]:
    """The setting with which the twin would be as late as the other world; nothing where it is already."""
    delays = [axis.delay_ms for axis in response.axes.values() if axis.delay_ms is not None]
    if not delays or not steps:
        return []
    later = round(sum(delays) / len(delays) * CONTROL_HZ / 1000)
    matching = tuple(max(0, step + later) for step in steps)
    if matching == steps:
        return []
    setting = f"--twin.latency-steps {' '.join(f'{step:g}' for step in matching)}"
    return [Row(what="latency that would match", value=setting, note=f"it is {_words(steps)} steps", verdict="–")]


def _words(steps: tuple[float, ...]) -> str:
    return " or ".join(f"{step:g}" for step in dict.fromkeys(steps))


def _at_least(value: float, limits: tuple[float, float]) -> Verdict:
    return "good" if value >= limits[0] else "fair" if value >= limits[1] else "poor"


def _at_most(value: float, limits: tuple[float, float]) -> Verdict:
    return "good" if value <= limits[0] else "fair" if value <= limits[1] else "poor"


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    order: tuple[Verdict, ...] = ("poor", "fair", "good")
    return next(each for each in order if each in verdicts)


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
