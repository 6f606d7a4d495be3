"""This module encodes the images of a camera as an MP4 file and decodes them.

H.264 with 4:2:0 colour, which every player has, at a quality where the halved colour resolution is most of the loss.
Every second frame is a key frame, as lerobot writes them: training reads frames in any order.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from learner.datasets.images import MAX_PIXELS, resize
from protos.errors import CorruptData, InputError
from protos.pointers import refuse_pointer
from protos.schema import F64, U8

ENCODERS = {
    "libx264": ("h264", {"crf": "10", "g": "2", "preset": "medium"}),
    "libsvtav1": ("av1", {"crf": "10", "g": "2", "preset": "8"}),
}
"""Codec and options by encoder; the first that this build of PyAV has is taken."""
TOLERANCE = 0.5
"""Largest distance of a frame from the requested time, as a fraction of a period."""
_ROUNDING_S = 1e-3
_END = 0.05
"""The last frame of a video that is slower than the rows is shown for its period, less this part of it."""
_ONE_RATE = 1.2
"""Rates that differ by less are one."""


@cache
def encoder() -> str:
    """Returns the encoder to use. Raises InputError where PyAV can encode neither H.264 nor AV1."""
    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise InputError(f"PyAV {av.__version__} has none of the encoders {', '.join(ENCODERS)}; use images=png")


def codec() -> str:
    """Returns ffmpeg's name of the format that `encode` writes."""
    return ENCODERS[encoder()][0]


def encode(frames: U8, fps: float) -> bytes:
    """Encodes (n, px, px, 3) RGB frames as an MP4 file; frame i is shown at i / fps [s]."""
    _, options = ENCODERS[encoder()]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(encoder(), rate=Fraction(fps).limit_denominator(1001), options=dict(options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decode(path: Path, times: F64, fps: float | None, px: int, *, rows: int | None = None) -> U8:
    """Decodes the frames (n, px, px, 3) of a video that are nearest to `times` [s], which increase.

    `fps` is the rate of the rows that want them; a frame is near within half a period of the video's or of theirs.
    `rows` is the number of all rows whose frames the file holds: as many frames at another rate are one per row, and
    their times mean nothing. ffmpeg gets this one open file, as MP4: given a name, it would also open files that a
    playlist in it names. Raises CorruptData for a file that does not decode, or has no frame near one of the times.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            rate = float(stream.average_rate or fps or 1.0)
            if fps is not None and stream.frames == rows and not 1 / _ONE_RATE < rate / fps < _ONE_RATE:
                raise CorruptData(f"{path}: a frame per row, but at {rate:g} per second; the rows come at {fps:g} Hz")
            reach = TOLERANCE * max(1 / rate, 1 / (fps or rate)) + _ROUNDING_S
            lasts = max(reach, (1 - _END) / rate) if fps is not None and rate < fps / _ONE_RATE else reach
            container.seek(max(0, int((times[0] - reach) / stream.time_base)), stream=stream, backward=True)
            return _nearest_frames(container.decode(stream), times, (reach, lasts), px, path)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorruptData(f"{path}: a video that does not decode ({error})") from error


def _nearest_frames(
    frames: Iterator[av.VideoFrame], times: F64, within: tuple[float, float], px: int, path: Path
) -> U8:
    """Returns the frames nearest to `times`, of frames in order of time; `within` reach, and reach of the last one."""
    reach, lasts = within
    out = np.empty((len(times), px, px, 3), np.uint8)
    done, before = 0, None
    for frame in frames:
        while done < len(times) and frame.time >= times[done]:
            earlier = before is not None and times[done] - before.time <= frame.time - times[done]
            out[done] = _near(before if earlier else frame, times[done], reach, px, path)
            done += 1
        if done == len(times):
            return out
        before = frame
    for at in range(done, len(times)):
        if before is None or times[at] > before.time + lasts:
            last = "no frame" if before is None else f"its last frame is at {before.time:.3f} s"
            raise CorruptData(f"{path}: ends before {times[at]:.3f} s, {last}")
        out[at] = _near(before, times[at], lasts, px, path)
    return out


def _near(frame: av.VideoFrame, at: float, reach: float, px: int, path: Path) -> U8:
    if abs(frame.time - at) > reach:
        raise CorruptData(f"{path}: no frame at {at:.3f} s, the nearest is at {frame.time:.3f} s")
    return resize(frame.to_ndarray(format="rgb24"), px)
