"""This module names the readers of files that are fuzzed, each with a valid input.

A checksum or a compression stops damage before it reaches the code behind it. A target with a shell is opened, damaged
and closed again in half of the cases:

    files ──opened──► what is inside ──damaged──► ──closed──► files with right checksums
"""

import gzip
import hashlib
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
for place in (TESTS.parent, TESTS / "learner", TESTS / "policy", TESTS / "twin", TESTS / "protos", TESTS / "fuzz"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from mutations import Files  # noqa: E402


@dataclass(frozen=True)
class Shell:
    """What is around the content of a target's files."""

    opened: Callable[[Files], Files]
    closed: Callable[[Files], Files]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader and an input that it takes."""

    make: Callable[[Path], object]
    """Writes the input into an empty folder."""
    read: Callable[[Path], object]
    """Reads the folder's input to its end."""
    shell: Shell | None = None


def _lerobot(folder: Path) -> None:
    from lerobot_samples import make_episode, write

    rng = np.random.default_rng(0)
    write(folder / "data", [make_episode(rng, name=f"a/b/{i}", steps=3) for i in range(2)], images="png")


def _lerobot_video(folder: Path) -> None:
    from lerobot_samples import make_episode, write

    rng = np.random.default_rng(0)
    write(folder / "data", [make_episode(rng, name=f"a/b/{i}", steps=3) for i in range(2)])


def _read_dataset(folder: Path) -> None:
    from lerobot_samples import SCHEMA

    from learner.datasets import open_dataset

    for _ in open_dataset(folder / "data", SCHEMA):
        pass


def _rlds(folder: Path) -> None:
    from lerobot_samples import SCALE, SCHEMA, make_episode

    from learner.datasets.rlds import RldsWriter

    writer = RldsWriter(folder / "data", SCHEMA, action_scale=SCALE)
    for i in range(2):
        writer.add(make_episode(np.random.default_rng(i), name=f"a/b/{i}", steps=3))
    writer.close()


def _opened_records(files: Files) -> Files:
    """Returns every record as a file of its own."""
    pieces = {name: data for name, data in files.items() if "tfrecord" not in name}
    for name in files.keys() - pieces:
        data, number = files[name], 0
        while data:
            length = struct.unpack_from("<Q", data)[0]
            pieces[f"{name}#{number}"], data, number = data[12 : 12 + length], data[16 + length :], number + 1
    return pieces


def _closed_records(pieces: Files) -> Files:
    from learner.datasets.rlds.records import framed

    files: Files = {}
    for name in sorted(pieces):
        file, mark, _ = name.partition("#")
        files[file] = files.get(file, b"") + (framed(pieces[name]) if mark else pieces[name])
    return files


def _released_raw(folder: Path) -> None:
    from test_released import make_frames, write_raw

    write_raw(folder / "data", make_frames(3))


def _released_training(folder: Path) -> None:
    from test_released import make_transitions, write_training

    (folder / "data").mkdir()
    write_training(folder / "data" / "demos.pkl", make_transitions(np.zeros((2, 7)) + 0.1))


def _read_released(folder: Path) -> None:
    from lerobot_samples import SCHEMA

    from learner.datasets import open_dataset

    for _ in open_dataset(folder / "data", SCHEMA, instruction="Put it there."):
        pass


def _octo(folder: Path) -> None:
    from official_files import small_checkpoint

    small_checkpoint(folder / "octo")


def _read_octo(folder: Path) -> None:
    from policy.octo.official import imported_policy, read_checkpoint

    imported_policy(read_checkpoint(folder / "octo"))


def _ply(folder: Path) -> None:
    from twin.scene import synthetic_scene
    from twin.splats import write_ply

    write_ply(folder / "cloud.ply", synthetic_scene(0.1).static)


def _compressed_ply(folder: Path) -> None:
    from splat_writers import compressed_ply_bytes

    from twin.scene import synthetic_scene

    (folder / "cloud.ply").write_bytes(compressed_ply_bytes(synthetic_scene(0.1).static))


def _spz(folder: Path) -> None:
    from splat_writers import spz_bytes

    from twin.scene import synthetic_scene

    (folder / "cloud.spz").write_bytes(spz_bytes(synthetic_scene(0.1).static))


def _read_splats(folder: Path) -> None:
    from twin.splats import read_splats

    read_splats(next(folder.iterdir()))


def _scene(folder: Path) -> None:
    from twin.scene import synthetic_scene

    synthetic_scene(0.2).save(folder / "scene")


def _read_scene(folder: Path) -> None:
    from twin.scene import Scene

    Scene.load(folder / "scene")


def _capture(folder: Path) -> None:
    text = (TESTS.parent / "examples" / "capture" / "capture.toml").read_text()
    (folder / "capture.toml").write_text(text)


def _read_capture(folder: Path) -> None:
    from twin.scan.capture import read_capture

    read_capture(folder / "capture.toml")


def _lines(folder: Path) -> None:
    lines = [{"stage": "scan", "wall_s": 1.5, "cell": 3, "success": True}, {"stage": "sft", "unit": "update"}]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_lines(folder: Path) -> None:
    from protos.files import last_line, log_tail, read_lines, read_object

    for read in (read_lines, last_line, log_tail, read_object):
        read(folder / "lines.jsonl")


def _settings(folder: Path) -> None:
    from actors.real import RealSettings, TrainPlan
    from protos.settings import save_settings

    save_settings(RealSettings(train=TrainPlan(out=Path("out.jsonl"))), folder / "real.json")


def _read_settings(folder: Path) -> None:
    from actors.real import RealSettings
    from protos.settings import load_settings

    load_settings(RealSettings, folder / "real.json")


def _checkpoint(folder: Path) -> None:
    import torch

    from learner.stage import checkpoint

    tensors = {"policy.weight": torch.arange(12.0).reshape(3, 4), "critic.bias": torch.zeros(5, dtype=torch.int64)}
    content = checkpoint.Checkpoint(kind="rl", tensors=tensors, progress={"step": 3}, settings={}, seed=0)
    checkpoint.save(folder / "checkpoint", content)


def _read_checkpoint(folder: Path) -> None:
    from learner.stage import checkpoint

    content = checkpoint.load(folder / "checkpoint", "rl")
    checkpoint.stored_scale(folder / "checkpoint")
    checkpoint.agent_tensors(content)


def _policy(folder: Path) -> None:
    from samples_policy import make_policy

    from policy.checkpoint import save_policy

    save_policy(folder / "checkpoint", make_policy())


def _read_policy(folder: Path) -> None:
    from policy.checkpoint import load_policy

    load_policy(folder / "checkpoint")


def _closed_manifest(files: Files) -> Files:
    """Writes the tensors' sha256 into the manifest, where it can still be read."""
    manifest, tensors = "checkpoint/manifest.json", next(name for name in sorted(files) if name.endswith("tensors"))
    try:
        record = json.loads(files[manifest])
    except ValueError:
        return files
    if not isinstance(record, dict):
        return files
    record |= {"file": Path(tensors).name, "sha256": hashlib.sha256(files[tensors]).hexdigest()}
    return files | {manifest: json.dumps(record).encode()}


def _segment(folder: Path) -> None:
    from test_codec_fuzz import BLOBS

    for codec, blob in BLOBS.items():
        (folder / codec).write_bytes(blob)


def _read_segment(folder: Path) -> None:
    from test_codec_fuzz import SCHEMA

    from protos.codec import decode_segment
    from protos.errors import TwinRLError

    told = []
    for path in sorted(folder.iterdir()):
        try:
            decode_segment(path.read_bytes(), SCHEMA)
        except TwinRLError as error:
            told.append(error)
    if told:
        raise told[0]


def _opened_segments(files: Files) -> Files:
    """Returns header, numbers and frames of every segment."""
    from test_codec_fuzz import parts

    return {f"{name}#{number}": part for name, blob in files.items() for number, part in enumerate(parts(blob))}


def _closed_segments(pieces: Files) -> Files:
    from test_codec_fuzz import sealed

    return {name: sealed([pieces[f"{name}#{number}"] for number in range(3)]) for name in ("jpeg", "raw", "zstd")}


def _spool(folder: Path) -> None:
    from test_codec_fuzz import BLOBS, SCHEMA

    from protos.codec import read_header
    from services.replay.write.spool import Spool

    spool = Spool(folder / "spool", SCHEMA, actor="twin-0", incarnation="life", limit_bytes=1 << 24)
    for blob in BLOBS.values():
        assert spool.append(blob, read_header(blob), ("twin",))
    spool.close()


def _read_spool(folder: Path) -> None:
    from test_codec_fuzz import SCHEMA

    from services.replay.write.spool import Spool

    spool = Spool(folder / "spool", SCHEMA, actor="twin-0", incarnation="next", limit_bytes=1 << 24)
    for record in spool.records(0, spool.end):
        spool.read(record)
    spool.close()


GZIP = Shell(
    lambda files: {name: gzip.decompress(data) for name, data in files.items()},
    lambda files: {name: gzip.compress(data, 1) for name, data in files.items()},
)
MANIFEST = Shell(dict, _closed_manifest)
TARGETS = {
    "lerobot": Target(make=_lerobot, read=_read_dataset),
    "lerobot-video": Target(make=_lerobot_video, read=_read_dataset),
    "rlds": Target(make=_rlds, read=_read_dataset, shell=Shell(_opened_records, _closed_records)),
    "released-raw": Target(make=_released_raw, read=_read_released, shell=GZIP),
    "released-training": Target(make=_released_training, read=_read_released),
    "octo": Target(make=_octo, read=_read_octo),
    "ply": Target(make=_ply, read=_read_splats),
    "ply-compressed": Target(make=_compressed_ply, read=_read_splats),
    "spz": Target(make=_spz, read=_read_splats, shell=GZIP),
    "scene": Target(make=_scene, read=_read_scene),
    "capture": Target(make=_capture, read=_read_capture),
    "json-lines": Target(make=_lines, read=_read_lines),
    "settings": Target(make=_settings, read=_read_settings),
    "checkpoint": Target(make=_checkpoint, read=_read_checkpoint, shell=MANIFEST),
    "policy": Target(make=_policy, read=_read_policy, shell=MANIFEST),
    "segment": Target(make=_segment, read=_read_segment, shell=Shell(_opened_segments, _closed_segments)),
    "spool": Target(make=_spool, read=_read_spool),
}
