"""This module encodes the images of a camera as an MP4 file and decodes them.

H.264 with 4:2:0 colour, which every player has, at a quality where the halved colour resolution is most of the loss.
Every second frame is a key frame, as lerobot writes them: training reads frames in any order.
"""

import io
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from learner.datasets.images import MAX_PIXELS, resize
from protos.errors import CorruptData, InputError
from protos.pointers import refuse_pointer
from protos.schema import U8

ENCODERS = {
    "libx264": ("h264", {"crf": "10", "g": "2", "preset": "medium"}),
    "libsvtav1": ("av1", {"crf": "10", "g": "2", "preset": "8"}),
}
"""Codec and options by encoder; the first that this build of PyAV has is taken."""
TOLERANCE = 0.5
"""Largest distance of a frame from the requested time, as a fraction of its duration."""


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


def encode(frames: U8, fps: int) -> bytes:
    """Encodes (n, px, px, 3) RGB frames as an MP4 file; frame i is shown at i / fps [s]."""
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
    """Decodes the frames (n, px, px, 3) of a video at `times` [s], which increase.

    ffmpeg gets this one open file, as MP4: given a name, it would also open files that a playlist in it names. Raises
    CorruptData for a file that does not decode, or has no frame near one of the times.
    """
    refuse_pointer(path)
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
