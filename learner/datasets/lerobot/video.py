"""Frames of a camera to an MP4 file and back.

H.264 with 4:2:0 colour, which every player has, at a quality where the halved colour resolution is most of what is
lost. Every second frame is a key frame, as lerobot writes them: training reads frames in any order.
"""

import io
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from learner.datasets.pictures import MAX_PIXELS, resize
from protos.errors import CorruptData, InputError
from protos.schema import U8

ENCODERS = {
    "libx264": ("h264", {"crf": "10", "g": "2", "preset": "medium"}),
    "libsvtav1": ("av1", {"crf": "10", "g": "2", "preset": "8"}),
}
"""Encoder -> codec and options; the first that this build of PyAV has is taken."""
TOLERANCE = 0.5
"""Of a frame's duration: the furthest that a frame may be from the time at which it is asked for."""


@cache
def encoder() -> str:
    """Raises InputError where PyAV can encode neither H.264 nor AV1."""
    for name in ENCODERS:
        if name in av.codecs_available:
            return name
    raise InputError(f"PyAV {av.__version__} has none of the encoders {', '.join(ENCODERS)}; use pictures=png")


def codec() -> str:
    """Name of the format that `encode` writes, as ffmpeg has it."""
    return ENCODERS[encoder()][0]


def encode(frames: U8, fps: int) -> bytes:
    """An MP4 file of (n, px, px, 3) RGB frames; frame i is shown at i / fps."""
    _, options = ENCODERS[encoder()]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(encoder(), rate=fps, options=dict(options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decode(path: Path, times: NDArray[np.float64], fps: float, px: int) -> U8:
    """(n, px, px, 3): the frames of a video shown at `times` [s], which increase.

    ffmpeg is handed this one file, as MP4: given a name, it would also open what a playlist in the file names. Raises
    CorruptData for a file that does not decode, or has no frame near one of the times.
    """
    reach = TOLERANCE / fps
    out = np.empty((len(times), px, px, 3), np.uint8)
    done = 0
    try:
        with path.open("rb") as file, av.open(file, format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            container.seek(max(0, int((times[0] - reach) / stream.time_base)), stream=stream, backward=True)
            for frame in container.decode(stream):
                while done < len(times) and frame.time > times[done] - reach:
                    if frame.time >= times[done] + reach:
                        raise CorruptData(f"{path}: no frame at {times[done]:.3f} s, the next is at {frame.time:.3f} s")
                    out[done] = resize(frame.to_ndarray(format="rgb24"), px)
                    done += 1
                if done == len(times):
                    return out
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorruptData(f"{path}: a video that does not decode ({error})") from error
    raise CorruptData(f"{path}: ends before {times[done]:.3f} s")
